// Run Java in a sandbox: fetch a JSON document and print it.

import { Sandbox } from '@e2b/code-interpreter';

const code = String.raw`
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
`;

const sandbox = await Sandbox.create();
try {
  const execution = await sandbox.runCode(code, {
    language: 'java',
    onStdout: (message) => process.stdout.write(message.line),
    onStderr: (message) => process.stderr.write(`stderr: ${message.line}`),
  });
  if (execution.error) {
    console.error(`${execution.error.name}: ${execution.error.value}\n${execution.error.traceback}`);
    process.exitCode = 1;
  }
} finally {
  await sandbox.kill();
}
