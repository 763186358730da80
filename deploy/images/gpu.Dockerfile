# Driver, rollout engines, learner ranks, embedder. From the checkout's root:
#   docker build -f deploy/images/gpu.Dockerfile -t REGISTRY/ledex-gpu .
# Ray's GPU image is a CUDA development image. Not built by us yet.
FROM rayproject/ray:2.60.0-py311-gpu

WORKDIR /home/ray/ledex-ray
# Dependencies first: a change of the code alone does not install them again.
COPY --chown=ray:users setup.cfg pyproject.toml README.md LICENSE ./
RUN mkdir ledex_ray reward actors launch \
    && touch ledex_ray/__init__.py reward/__init__.py actors/__init__.py launch/__init__.py \
    && pip install --no-cache-dir '.[gpu]' && pip uninstall -y ledex-ray
COPY --chown=ray:users ledex_ray ledex_ray
COPY --chown=ray:users reward reward
COPY --chown=ray:users actors actors
COPY --chown=ray:users launch launch
RUN pip install --no-cache-dir --no-deps .
WORKDIR /home/ray
