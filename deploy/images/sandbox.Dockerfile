# A sandbox node: the base package, no torch. From the checkout's root:
#   docker build -f deploy/images/sandbox.Dockerfile -t REGISTRY/ledex-sandbox .
# Ray's own image, and not a smaller one: all nodes of a cluster must run the same Python to its last digit. Not built by
# us yet.
FROM rayproject/ray:2.60.0-py311-cpu

# bubblewrap: the strongest tier, where the host lets unprivileged users have namespaces.
USER root
RUN apt-get update && apt-get install -y --no-install-recommends bubblewrap && rm -rf /var/lib/apt/lists/*
USER ray
WORKDIR /home/ray/ledex-ray
COPY --chown=ray:users setup.cfg pyproject.toml README.md LICENSE ./
COPY --chown=ray:users ledex_ray ledex_ray
COPY --chown=ray:users reward reward
COPY --chown=ray:users actors actors
COPY --chown=ray:users launch launch
RUN pip install --no-cache-dir . && rm -rf /home/ray/ledex-ray/*
WORKDIR /home/ray
# Fails the build, not a run, where the judge does not work at all; how well it isolates is a matter of the host it runs on.
RUN ledex doctor --floor none
