FROM debian:bookworm-slim
RUN apt-get update -q && apt-get install -qy --no-install-recommends haproxy
USER haproxy
WORKDIR /var/lib/haproxy
STOPSIGNAL SIGUSR1
CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
