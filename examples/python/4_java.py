"""Run Java in a sandbox: fetch a JSON document and print it."""

from e2b_code_interpreter import Sandbox

CODE = r"""
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.HttpURLConnection;
import java.net.URL;

public class Main {
    public static void main(String[] args) throws Exception {
        URL url = new URL("https://httpbin.org/json");
        HttpURLConnection connection = (HttpURLConnection) url.openConnection();
        connection.setRequestMethod("GET");

        BufferedReader reader = new BufferedReader(new InputStreamReader(connection.getInputStream()));
        StringBuilder response = new StringBuilder();
        String line;
        while ((line = reader.readLine()) != null) {
            response.append(line).append("\n");
        }
        reader.close();

        System.out.println(response.toString());
    }
}
"""

with Sandbox.create() as sandbox:
    execution = sandbox.run_code(
        CODE, language="java",
        on_stdout=lambda message: print(message.line, end="", flush=True),
        on_stderr=lambda message: print("stderr:", message.line, end="", flush=True),
    )

if execution.error:
    raise SystemExit(f"{execution.error.name}: {execution.error.value}\n{execution.error.traceback}")
