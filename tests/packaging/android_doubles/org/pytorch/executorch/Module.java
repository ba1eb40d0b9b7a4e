package org.pytorch.executorch;

import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;

/**
 * Answers inputs that the real runtime was asked before, and no others: a bit of difference in an input is an error. The
 * folder in the property {@code recorded} has a folder a method, in it a folder an input with {@code input},
 * {@code 0.f32} (logits) and {@code 1.i64} or {@code 1.f32}, … (selections).
 *
 * As the real one: outputs lie in the module's own memory, which the next run overwrites and destroy gives up, and a load
 * makes the threads anew that every module of the process runs on.
 */
public class Module {
    public static final int LOAD_MODE_MMAP = 1;

    private static final int MEMORY_BYTES = 1 << 20;
    private static final AtomicInteger running = new AtomicInteger();

    private final ByteBuffer memory = ByteBuffer.allocate(MEMORY_BYTES).order(ByteOrder.LITTLE_ENDIAN);
    private boolean destroyed;

    public static Module load(String modelPath, int loadMode, int numThreads) {
        if (loadMode != LOAD_MODE_MMAP || !new File(modelPath).isFile()) throw new IllegalArgumentException(modelPath);
        takeTime();
        if (running.get() != 0) throw new IllegalStateException("the threads of a running model were taken away");
        return new Module();
    }

    public EValue[] execute(String methodName, EValue... inputs) {
        if (destroyed) throw new IllegalStateException("destroyed");
        running.incrementAndGet();
        try {
            takeTime();
            return answer(methodName, inputs[0].toTensor());
        } finally {
            running.decrementAndGet();
        }
    }

    private EValue[] answer(String methodName, Tensor input) {
        float[] values = input.getDataAsFloatArray();
        if (Arrays.stream(input.shape).reduce(1, (a, b) -> a * b) != values.length) throw new IllegalArgumentException("shape");
        ByteBuffer bytes = ByteBuffer.allocate(4 * values.length).order(ByteOrder.LITTLE_ENDIAN);
        bytes.asFloatBuffer().put(values);
        try {
            for (File one : new File(System.getProperty("recorded"), methodName).listFiles()) {
                if (Arrays.equals(Files.readAllBytes(new File(one, "input").toPath()), bytes.array())) return outputs(one);
            }
        } catch (IOException error) {
            throw new IllegalStateException(error);
        }
        throw new IllegalStateException("this input was not recorded");
    }

    private EValue[] outputs(File folder) throws IOException {
        List<EValue> found = new ArrayList<>();
        memory.clear();
        for (int number = 0; ; number++) {
            File floats = new File(folder, number + ".f32");
            File longs = new File(folder, number + ".i64");
            if (floats.isFile()) {
                found.add(EValue.from(new Tensor.Floats(put(floats))));
            } else if (longs.isFile()) {
                found.add(EValue.from(new Tensor.Longs(put(longs))));
            } else {
                return found.toArray(new EValue[0]);
            }
        }
    }

    /** The place in memory where a file's content was put. */
    private ByteBuffer put(File file) throws IOException {
        int begin = memory.position();
        memory.put(Files.readAllBytes(file.toPath()));
        ByteBuffer place = memory.duplicate().order(ByteOrder.LITTLE_ENDIAN);
        place.limit(memory.position()).position(begin);
        return place.slice().order(ByteOrder.LITTLE_ENDIAN);
    }

    /** Long enough for another thread to come between. */
    static void takeTime() {
        try {
            Thread.sleep(1);
        } catch (InterruptedException error) {
            throw new IllegalStateException(error);
        }
    }

    public void destroy() {
        destroyed = true;
        Arrays.fill(memory.array(), (byte) 0);
    }
}
