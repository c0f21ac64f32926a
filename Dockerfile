# Headless use with an NVIDIA GPU, or without one:
#   docker build -t hallo3 .
#   docker run --rm --gpus all -v "$PWD:/data" hallo3 animate --portrait me.png --speech me.wav -o me.mp4
FROM python:3.12-slim
RUN useradd --create-home hallo3 && mkdir /data && chown hallo3 /data
COPY pyproject.toml README.md LICENSE /source/
COPY hallo3 /source/hallo3
COPY samples /source/samples
RUN pip install --no-cache-dir "/source[faces,phone,gguf,serve]" && rm -r /source
USER hallo3
WORKDIR /data
ENTRYPOINT ["hallo3"]
CMD ["demo"]
