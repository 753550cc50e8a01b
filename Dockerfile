# An image with the command `seanet`: training, evaluation, prediction.
#
#   docker build -t seanet .
#   docker build -t seanet:cuda --build-arg EXTRAS=train,cuda .
#   docker run --rm -v "$PWD/runs:/seanet/runs" seanet train --dataset digits --model seanet20_narrow --epochs 12
#   docker run --rm --gpus all -v "$PWD/runs:/seanet/runs" seanet:cuda train --dataset cifar100 --require-gpu
#
# The CUDA libraries come with the extra "cuda", as wheels; the host needs NVIDIA's driver and container toolkit.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim

ARG EXTRAS=train

# The dependencies change less often than the code: they are a layer of their own, which a change of the code keeps. The
# package in it is empty.
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
# pyproject.toml bounds the versions, which hadolint does not see.
# hadolint ignore=DL3013
RUN mkdir seanet_jax && touch seanet_jax/__init__.py && pip install --no-cache-dir ".[${EXTRAS}]"

COPY seanet_jax seanet_jax
RUN pip install --no-cache-dir --no-deps --force-reinstall .

# Nothing here needs root. Data sets and compiled programs are kept where a volume can be mounted.
RUN useradd --create-home --uid 1000 seanet && mkdir /seanet && chown seanet:seanet /seanet
USER 1000
WORKDIR /seanet
ENV TFDS_DATA_DIR=/seanet/data XDG_CACHE_HOME=/seanet/cache
ENTRYPOINT ["seanet"]
CMD ["--help"]
