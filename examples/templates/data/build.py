"""Build the template ``data``: a data-science Python on top of the stock template's."""

from e2b import Template, default_build_logger

PACKAGES = ["polars", "pyarrow", "duckdb", "statsmodels", "xgboost-cpu", "lightgbm", "altair", "networkx"]

template = (
    Template()
    .from_template("code-interpreter-v1")
    .pip_install(PACKAGES)
    # A build that cannot import its packages is to fail now.
    .run_cmd("python3 -c 'import polars, pyarrow.parquet, duckdb, statsmodels.api, xgboost, lightgbm, altair'", user="root")
)

if __name__ == "__main__":
    Template.build(template, "data", cpu_count=2, memory_mb=2048, on_build_logs=default_build_logger())
