"""A template from a Dockerfile: a text here, or the path of a file."""

from pathlib import Path

from e2b import Sandbox, Template

DOCKERFILE = """
FROM python:3
ARG NAME=world
ENV GREETING=hello-$NAME MODE="$NAME"
WORKDIR /srv/app
COPY main.py config.json ./
RUN pip install --quiet tinydb
RUN python main.py > output.txt
USER user
CMD python -m http.server 8000
"""

template = Template(file_context_path=Path(__file__).parent.parent / "app").from_dockerfile(DOCKERFILE)
print(Template.to_dockerfile(Template().from_base_image().run_cmd("echo hi")))
Template.build(template, "example-dockerfile")

with Sandbox.create("example-dockerfile", timeout=120) as sandbox:
    print("directory:", sandbox.commands.run("pwd").stdout.strip())
    print("output:", sandbox.commands.run("cat output.txt").stdout.strip())
    print("variable:", sandbox.commands.run("echo $GREETING $MODE").stdout.strip())
    print(
        "served:", sandbox.commands.run("curl -s --retry 20 --retry-connrefused --retry-delay 1 localhost:8000/config.json").stdout.strip()
    )
