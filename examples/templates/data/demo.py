"""Use the packages of the template ``data``: a frame, SQL over it, a regression and a trained model, with a figure."""

from e2b_code_interpreter import Sandbox

FRAME = """
import numpy as np, polars as pl, duckdb
noise = np.random.default_rng(1)
x = noise.uniform(0, 10, 5000)
frame = pl.DataFrame({"x": x, "y": 3 * x + noise.normal(0, 1, 5000), "kind": np.where(x > 5, "high", "low")})
duckdb.sql("select kind, count(*) as n, round(avg(y), 1) as mean from frame group by kind order by kind").pl()
"""
REGRESSION = """
import statsmodels.api as sm
fit = sm.OLS(frame["y"].to_numpy(), sm.add_constant(frame["x"].to_numpy())).fit()
float(round(fit.params[1], 2))
"""
MODEL = """
import xgboost as xgb, matplotlib.pyplot as plt
model = xgb.XGBRegressor(n_estimators=30, max_depth=3).fit(frame[["x"]].to_numpy(), frame["y"].to_numpy())
grid = np.linspace(0, 10, 100)
plt.plot(grid, model.predict(grid[:, None])); plt.title("model"); plt.show()
"""

with Sandbox.create("data") as sandbox:
    for code in (FRAME, REGRESSION, MODEL):
        execution = sandbox.run_code(code, timeout=120)
        if execution.error:
            raise SystemExit(execution.error.traceback)
        for result in execution.results:
            print(result.text, f"(png, {len(result.png)} characters)" if result.png else "")
