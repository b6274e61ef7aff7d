"""Run Kotlin: state between runs, output as it is written, HTML, an error, and code that is stopped."""

from e2b import TimeoutException
from e2b_code_interpreter import Sandbox

with Sandbox.create("kotlin") as sandbox:
    sandbox.run_code('data class City(val name: String, val people: Int)\nval cities = listOf(City("Ulm", 128), City("Bonn", 336))', language="kotlin")
    code = "for (city in cities) { println(city); Thread.sleep(300) }"
    sandbox.run_code(code, language="kotlin", on_stdout=lambda message: print(message.line, end="", flush=True))
    print(sandbox.run_code("cities.sumOf { it.people }", language="kotlin").text)
    print(sandbox.run_code('HTML("<b>${cities.size} cities</b>")', language="kotlin").results[0].html)

    failed = sandbox.run_code("val wrong: Int = cities", language="kotlin")
    print("error:", failed.error.value)

    try:
        sandbox.run_code("while (true) Thread.sleep(10)", language="kotlin", timeout=2)
    except TimeoutException:
        print("stopped;", sandbox.run_code("cities.first().name", language="kotlin").text)
