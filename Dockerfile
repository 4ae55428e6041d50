# Learns, and everything else that `dgm-jax` does: docker build -t dgm-jax . && docker run -v "$PWD/runs:/work/runs" dgm-jax
FROM python:3.12-slim
WORKDIR /src
COPY requirements.txt ./
RUN python -m pip install --no-cache-dir -r requirements.txt
COPY setup.cfg setup.py pyproject.toml README.md LICENSE ./
COPY dgm_jax dgm_jax
RUN python -m pip install --no-cache-dir --no-deps .
WORKDIR /work
ENTRYPOINT ["dgm-jax"]
CMD ["learn", "digits"]
