FROM debian:bookworm-slim
RUN apt-get update -q && apt-get install -qy --no-install-recommends prometheus && install -d -o nobody /prometheus
USER nobody
VOLUME /prometheus
WORKDIR /prometheus
ENTRYPOINT ["prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
