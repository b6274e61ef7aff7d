package cloister.kernel;

import java.io.OutputStream;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharsetDecoder;
import java.nio.charset.CodingErrorAction;
import java.nio.charset.StandardCharsets;
import java.util.Locale;
import java.util.function.Consumer;

/** System.out or System.err of user code: one print, one message, at once. Bytes are decoded as UTF-8 across writes. */
final class Output extends PrintStream {
    private final Consumer<String> sink;
    private final CharsetDecoder decoder = StandardCharsets.UTF_8.newDecoder()
        .onMalformedInput(CodingErrorAction.REPLACE).onUnmappableCharacter(CodingErrorAction.REPLACE);
    private ByteBuffer rest = ByteBuffer.allocate(0);

    Output(Consumer<String> sink) {
        super(OutputStream.nullOutputStream(), true, StandardCharsets.UTF_8);
        this.sink = sink;
    }

    private void emit(String text) {
        if (!text.isEmpty()) {
            sink.accept(text);
        }
    }

    @Override
    public void write(int b) {
        write(new byte[] {(byte) b}, 0, 1);
    }

    @Override
    public void write(byte[] bytes) {
        write(bytes, 0, bytes.length);
    }

    @Override
    public synchronized void write(byte[] bytes, int offset, int length) {
        ByteBuffer input = ByteBuffer.allocate(rest.remaining() + length).put(rest).put(bytes, offset, length).flip();
        CharBuffer text = CharBuffer.allocate(input.remaining() + 1);
        decoder.decode(input, text, false);
        rest = ByteBuffer.allocate(input.remaining()).put(input).flip();
        emit(text.flip().toString());
    }

    @Override
    public void flush() { }

    @Override
    public void close() { }

    @Override
    public boolean checkError() {
        return false;
    }

    @Override
    public void print(boolean value) {
        emit(String.valueOf(value));
    }

    @Override
    public void print(char value) {
        emit(String.valueOf(value));
    }

    @Override
    public void print(int value) {
        emit(String.valueOf(value));
    }

    @Override
    public void print(long value) {
        emit(String.valueOf(value));
    }

    @Override
    public void print(float value) {
        emit(String.valueOf(value));
    }

    @Override
    public void print(double value) {
        emit(String.valueOf(value));
    }

    @Override
    public void print(char[] value) {
        emit(String.valueOf(value));
    }

    @Override
    public void print(String value) {
        emit(String.valueOf(value));
    }

    @Override
    public void print(Object value) {
        emit(String.valueOf(value));
    }

    @Override
    public void println() {
        emit("\n");
    }

    @Override
    public void println(boolean value) {
        emit(value + "\n");
    }

    @Override
    public void println(char value) {
        emit(value + "\n");
    }

    @Override
    public void println(int value) {
        emit(value + "\n");
    }

    @Override
    public void println(long value) {
        emit(value + "\n");
    }

    @Override
    public void println(float value) {
        emit(value + "\n");
    }

    @Override
    public void println(double value) {
        emit(value + "\n");
    }

    @Override
    public void println(char[] value) {
        emit(String.valueOf(value) + "\n");
    }

    @Override
    public void println(String value) {
        emit(value + "\n");
    }

    @Override
    public void println(Object value) {
        String text = Traces.line(String.valueOf(value)); // Throwable.printStackTrace comes this way
        if (text != null) {
            emit(text + "\n");
        }
    }

    @Override
    public PrintStream printf(String format, Object... values) {
        return format(format, values);
    }

    @Override
    public PrintStream printf(Locale locale, String format, Object... values) {
        return format(locale, format, values);
    }

    @Override
    public PrintStream format(String format, Object... values) {
        emit(String.format(format, values));
        return this;
    }

    @Override
    public PrintStream format(Locale locale, String format, Object... values) {
        emit(String.format(locale, format, values));
        return this;
    }

    @Override
    public PrintStream append(CharSequence text) {
        emit(String.valueOf(text));
        return this;
    }

    @Override
    public PrintStream append(CharSequence text, int start, int end) {
        emit(String.valueOf(text).substring(start, end));
        return this;
    }

    @Override
    public PrintStream append(char value) {
        emit(String.valueOf(value));
        return this;
    }
}
