# 3.11 is the version that every test runs on. Another one: --build-arg PYTHON_IMAGE=python:3.13-slim,
# or a digest (python:3.11-slim@sha256:…) for a build that can be repeated to the byte.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY requirements/build.txt requirements/runtime.txt requirements/
# Two environments: what builds the wheel does not end up beside it. Only binary packages: a
# dependency without a wheel for this platform ends the build instead of asking for a compiler.
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements/build.txt \
 && python -m venv --without-pip /opt/meterbridge \
 && /opt/build/bin/pip --python /opt/meterbridge/bin/python install \
    --require-hashes --only-binary :all: -r requirements/runtime.txt
COPY LICENSE README.md pyproject.toml ./
COPY examples examples
COPY alembic alembic
COPY app app
RUN /opt/build/bin/hatchling build -t wheel -d /tmp/wheel \
 && /opt/build/bin/pip --python /opt/meterbridge/bin/python install \
    --no-index --no-deps /tmp/wheel/*.whl \
 && /opt/build/bin/pip --python /opt/meterbridge/bin/python check

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="meterbridge" \
      org.opencontainers.image.description="OpenMeter usage webhooks into Stripe's legacy usage records" \
      org.opencontainers.image.licenses="MIT"
# Nothing is installed from here on: what installs goes.
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore pip setuptools wheel
COPY --from=build /opt/meterbridge /opt/meterbridge
# The byte code was compiled when the packages were installed; the root file system may be read-only.
ENV PATH=/opt/meterbridge/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONFAULTHANDLER=1 \
    PYTHONUNBUFFERED=1
# A number and not a name: Kubernetes' runAsNonRoot can check it.
USER 10001:10001
WORKDIR /opt/meterbridge
EXPOSE 8080
# http.client and not urllib: a proxy named in the environment must not be asked about 127.0.0.1.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8080, timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["meterbridge"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8080"]
