"""Build the template ``pari``: the PARI/GP calculator by its Jupyter kernel, from Debian alone."""

from e2b import Template, default_build_logger

template = Template().from_template("base").apt_install(["xeus-gp"], no_install_recommends=True)

if __name__ == "__main__":
    Template.build(template, "pari", cpu_count=2, memory_mb=512, on_build_logs=default_build_logger())
