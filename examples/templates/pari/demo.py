"""Run GP: state between runs, output as it is written, a plot, an error, and a loop that is stopped."""

from e2b import TimeoutException
from e2b_code_interpreter import Sandbox

with Sandbox.create("pari") as sandbox:
    sandbox.run_code("fermat(n) = 2^(2^n) + 1", language="gp")
    code = 'for(n = 3, 6, print(n, ": ", factor(fermat(n))); system("sleep 0.3"))'
    sandbox.run_code(code, language="gp", on_stdout=lambda message: print(message.line, end="", flush=True))
    plot = sandbox.run_code("ploth(x = 0, 2*Pi, sin(x));", language="gp").results[0]
    print(plot.html[:40], "…")

    failed = sandbox.run_code("1/0", language="gp")
    print("error:", failed.error.name, "".join(failed.logs.stdout).strip().splitlines()[-1])

    try:
        sandbox.run_code("while(1, )", language="gp", timeout=1)
    except TimeoutException:
        print("stopped;", "".join(sandbox.run_code("print(fermat(4))", language="gp").logs.stdout).strip())
