"""Build the template ``kotlin``: compiled Kotlin by JetBrains' Jupyter kernel from PyPI, on the JDK of the stock template."""

from e2b import Template, default_build_logger

KERNELS = "/usr/local/share/jupyter/kernels"
OPTIONS = "-Xmx768m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto"

template = (
    Template()
    .from_template("code-interpreter-v1")
    .pip_install(["kotlin-jupyter-kernel==0.19.0.944"])
    .run_cmd(
        [
            # The kernel opens a port for debuggers otherwise.
            "sed -i 's/\"debuggerPort\": \"generate\"/\"debuggerPort\": \"\"/' $(python3 -c 'import run_kotlin_kernel as k; print(k.__path__[0])')/config/*.json",
            f"sed -i 's/\"interrupt_mode\"/\"env\": {{\"KOTLIN_JUPYTER_JAVA_OPTS\": \"{OPTIONS}\"}},\\n    &/' {KERNELS}/kotlin/kernel.json",
        ],
        user="root",
    )
)

if __name__ == "__main__":
    Template.build(template, "kotlin", cpu_count=2, memory_mb=2048, on_build_logs=default_build_logger())
