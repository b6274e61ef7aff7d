package cloister.kernel;

import java.io.BufferedReader;
import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import jdk.internal.access.SharedSecrets;

/** The protocol socket on descriptor 3: lines in, lines out, each written whole. It keeps nothing back: a message is on the socket when send returns. */
final class Channel {
    private static final int FD = 3;
    private static final int TEXT_LIMIT = 65536;
    private final BufferedReader in;
    private final OutputStream out;
    private volatile boolean written; // text since the last mark
    private long asked;
    private long answered;

    Channel(InputStream in, OutputStream out) {
        this.in = new BufferedReader(new InputStreamReader(in, StandardCharsets.UTF_8));
        this.out = out;
    }

    /** The channel to the agent. */
    static Channel open() {
        FileDescriptor fd = new FileDescriptor();
        SharedSecrets.getJavaIOFileDescriptorAccess().set(fd, FD);
        return new Channel(new FileInputStream(fd), new FileOutputStream(fd));
    }

    /** The next message, or null when the agent has closed the socket. */
    Map<String, Object> receive() throws IOException {
        String line = in.readLine();
        return line == null ? null : Json.parse(line);
    }

    /** Sends {"op": op, "id": id} and the given pairs; a value is a String, a Number, a Boolean or a Map of those. */
    void send(String op, Integer id, Object... pairs) {
        StringBuilder line = new StringBuilder("{\"op\":\"").append(op).append('"');
        if (id != null) {
            line.append(",\"id\":").append(id);
        }
        for (int i = 0; i < pairs.length; i += 2) {
            line.append(',');
            Json.quote(line, (String) pairs[i]);
            line.append(':');
            append(line, pairs[i + 1]);
        }
        write(line.append("}\n").toString().getBytes(StandardCharsets.UTF_8));
    }

    /**
     * Waits until the agent has taken all messages so far: text that a child process is about to write to a pipe cannot overtake them. An
     * interrupt ends the waiting and stays set.
     */
    void mark() {
        long number;
        synchronized (this) {
            if (!written) {
                return;
            }
            written = false;
            number = ++asked;
        }
        send("ready", null, "ack", number);
        synchronized (this) {
            try {
                while (answered < number) {
                    wait();
                }
            } catch (InterruptedException stopped) {
                Thread.currentThread().interrupt();
            }
        }
    }

    /** The agent's answer to {@link #mark}. */
    synchronized void acknowledge(long number) {
        answered = number;
        notifyAll();
    }

    /** Sends text of a stream in messages of bounded size, never cutting a surrogate pair. */
    void sendText(String op, int id, String text) {
        for (int start = 0; start < text.length();) {
            int end = Math.min(start + TEXT_LIMIT, text.length());
            if (end < text.length() && Character.isHighSurrogate(text.charAt(end - 1))) {
                end--;
            }
            send(op, id, "text", text.substring(start, end));
            written = true;
            start = end;
        }
    }

    private static void append(StringBuilder line, Object value) {
        if (value instanceof Map<?, ?> map) {
            String separator = "{";
            for (Map.Entry<?, ?> entry : map.entrySet()) {
                line.append(separator);
                Json.quote(line, (String) entry.getKey());
                append(line.append(':'), entry.getValue());
                separator = ",";
            }
            line.append(map.isEmpty() ? "{}" : "}");
        } else if (value instanceof String text) {
            Json.quote(line, text);
        } else {
            line.append(value);
        }
    }

    private synchronized void write(byte[] line) {
        try {
            out.write(line);
        } catch (IOException gone) {
            Runtime.getRuntime().halt(0); // the agent has closed the socket: nobody is left to talk to
        }
    }
}
