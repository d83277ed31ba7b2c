# The serving image: the service, its dependencies and models/, run by a user without rights. See docs/deployment.md.
#
#   BASE    Debian or Ubuntu, Python 3.11+ in it or in its package archive
#   DEVICE  cpu, or cuda: ONNX Runtime's GPU build, over a BASE that brings CUDA and cuDNN
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS python
RUN command -v python3 >/dev/null || { \
      apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends python3 \
      && apt-get clean && rm -rf /var/lib/apt/lists/*; }

# pip lives in an environment of its own, so that what it installs in /opt/baton is all there is to copy.
FROM python AS dependencies
ARG DEVICE=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python3 -c 'import ensurepip' 2>/dev/null || { \
      apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends python3-venv; }
RUN python3 -m venv pip && python3 -m venv --without-pip /opt/baton
# Nothing is installed but files with the hashes that `make lock` wrote down.
COPY deploy/locks/ locks/
RUN pip/bin/pip --python /opt/baton/bin/python install --require-hashes -r locks/serving.txt
# Both builds of ONNX Runtime install the package `onnxruntime`, so one has to go before the other comes.
RUN case "${DEVICE}" in \
      cpu) ;; \
      cuda) pip/bin/pip --python /opt/baton/bin/python uninstall -y onnxruntime \
            && pip/bin/pip --python /opt/baton/bin/python install --require-hashes --no-deps -r locks/cuda.txt ;; \
      *) echo "DEVICE is cpu or cuda, not ${DEVICE}" >&2; exit 1 ;; \
    esac
# What serving never reads: a client of the Hugging Face hub, that of the tokenizers' `from_pretrained`, and what it alone
# needs; what makes models for ONNX Runtime; of plotly all but its bundle for browsers; tests, types and headers of packages.
RUN pip/bin/pip --python /opt/baton/bin/python uninstall -y \
      huggingface_hub hf-xet filelock fsspec httpcore2 httpx2 narwhals tqdm truststore \
    && rm -r /opt/baton/share/jupyter \
    && cd /opt/baton/lib/python3*/site-packages \
    && rm -r onnxruntime/datasets onnxruntime/quantization onnxruntime/tools onnxruntime/transformers numpy/f2py \
    && find plotly -type f ! -path plotly/__init__.py ! -name plotly.min.js -delete \
    && find . \( -type d \( -name tests -o -name include \) -o -name '*.pyi' -o -name '*.a' \) -prune -exec rm -r {} +

FROM dependencies AS code
COPY pyproject.toml ./
COPY service/ service/
RUN pip/bin/pip install --require-hashes -r locks/build.txt \
    && pip/bin/pip wheel --no-deps --no-build-isolation . \
    && pip/bin/pip --python /opt/baton/bin/python install --no-deps --prefix /code ./*.whl

# A checkout under umask 077 is readable by its owner alone, and so would be what is copied of it.
FROM python AS models
COPY models/ /srv/baton/models/
RUN chmod -R a+rX /srv/baton

FROM python
RUN groupadd --gid 10001 baton \
    && useradd --uid 10001 --gid baton --no-create-home --home-dir /var/lib/baton --shell /usr/sbin/nologin baton \
    && install -d -o baton -g baton -m 0700 /var/lib/baton
# What changes least comes first: a change of code leaves the large layer as it is.
COPY --from=dependencies /opt/baton /opt/baton
COPY --from=code /code /opt/baton
COPY --from=models /srv/baton /srv/baton
ENV PATH=/opt/baton/bin:${PATH} \
    BATON_HOST=0.0.0.0 \
    BATON_MODELS_DIR=/srv/baton/models \
    BATON_STATE_DIR=/var/lib/baton
USER 10001:10001
VOLUME /var/lib/baton
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('BATON_PORT', 8000)), timeout=4); c.request('GET', '/readyz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["baton"]
CMD ["serve"]
