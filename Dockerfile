# docker build -t gensar . && docker run --rm gensar
# Runs `make demo`. To keep its results: docker run --rm -v "$PWD/results:/gensar/results" gensar
FROM python:3.11-slim

RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*

WORKDIR /gensar
COPY . .
RUN make environment
ENV PATH=/gensar/.venv/bin:$PATH

CMD ["make", "demo"]
