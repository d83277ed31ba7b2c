FROM debian:bookworm-slim
RUN apt-get update -q && apt-get install -qy --no-install-recommends redis-server && install -d -o redis /data
VOLUME /data
WORKDIR /data
CMD ["redis-server"]
