# One image for every service and for the command line `trading-bus`; what it runs is the container's command.
# Debian's own Python packages stay out: the virtual environment holds the locked versions and nothing else.

FROM python:3.11.13-slim-bookworm AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# Packages first: they change less often than the code, and this layer is the large one.
COPY requirements.lock requirements-dev.lock ./
RUN python -m venv --without-pip /opt/trading-bus \
 && python -m pip --python /opt/trading-bus/bin/python install --require-hashes --only-binary :all: -r requirements.lock
# The build backend is pinned by the development lock; it stays in this stage.
RUN awk '/^setuptools==/ {found = 1} found {print} found && !/\\$/ {exit}' requirements-dev.lock > build.lock \
 && python -m pip install --require-hashes --no-deps -r build.lock
COPY . .
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && python -m pip --python /opt/trading-bus/bin/python install --no-index --no-deps /wheels/*.whl

FROM python:3.11.13-slim-bookworm
RUN python -m pip uninstall --yes --root-user-action ignore pip setuptools wheel \
 && groupadd --system --gid 10001 trading \
 && useradd --system --uid 10001 --gid trading --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin trading
COPY --from=build /opt/trading-bus /opt/trading-bus
# The root file system may be read-only; /tmp is all that the command line ever writes to.
ENV PATH=/opt/trading-bus/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 TRADING_BUS_CACHE=/tmp/trading-bus
WORKDIR /
USER 10001:10001
STOPSIGNAL SIGTERM
CMD ["trading-bus", "--help"]
