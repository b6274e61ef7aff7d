"""Build the template ``lua``: Lua by its Jupyter kernel, from Debian and PyPI alone."""

from e2b import Template, default_build_logger

template = Template().from_template("base").apt_install(["lua5.4"], no_install_recommends=True).pip_install(["ilua==0.2.1"])

if __name__ == "__main__":
    Template.build(template, "lua", cpu_count=2, memory_mb=512, on_build_logs=default_build_logger())
