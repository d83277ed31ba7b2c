# No Grafana: it is in no package of Debian. This shows that the files are where Grafana reads them, and stays up.
FROM debian:bookworm-slim
RUN useradd --uid 472 --gid 0 grafana && install -d -o grafana /var/lib/grafana /etc/grafana
USER 472
VOLUME /var/lib/grafana
STOPSIGNAL SIGKILL
CMD ["tail", "-f", "/dev/null"]
