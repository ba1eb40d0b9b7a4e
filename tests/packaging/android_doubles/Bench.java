import android.content.Context;
import android.content.res.AssetManager;
import android.graphics.Bitmap;
import android.os.Looper;
import java.io.File;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.Arrays;
import java.util.Collections;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.RejectedExecutionException;
import java.util.concurrent.TimeUnit;
import org.example.model.*;

/** Drives the packaged library from Java, as an app would. Arguments: assets, private files, then commands; a line each. */
public final class Bench {
    public static void main(String[] arguments) throws Exception {
        Context context = new Context(new File(arguments[0]), new File(arguments[1]));
        for (int at = 2; at < arguments.length; at++) {
            String[] words = arguments[at].split(":");
            String line;
            try {
                line = run(context, words);
            } catch (TofeException error) {
                line = error.getReason() + ": " + error.getMessage();
            }
            System.out.println(line);
        }
    }

    private static String run(Context context, String[] words) throws Exception {
        switch (words[0]) {
            case "square": // FILE WIDTH HEIGHT OUT: bytes before normalisation
                return writeBytes(words[4], Preprocessing.INSTANCE.resizeAndCrop(BitmapPixels.Companion.of(bitmap(words))));
            case "window": // FILE WIDTH HEIGHT OUT FILTER TO-WIDTH TO-HEIGHT LEFT TOP SIZE
                PillowResize resize = PillowResize.INSTANCE;
                PillowResize.Filter filter = words[5].equals("bicubic") ? resize.getBICUBIC() : resize.getBILINEAR();
                int[] n = new int[5];
                for (int i = 0; i < 5; i++) n[i] = Integer.parseInt(words[6 + i]);
                BitmapPixels pixels = BitmapPixels.Companion.of(bitmap(words));
                return writeBytes(words[4], resize.window(pixels, n[0], n[1], filter, n[2], n[3], n[4]));
            case "input": // FILE WIDTH HEIGHT OUT: what the model gets
                return write(words[4], Preprocessing.INSTANCE.prepare(BitmapPixels.Companion.of(bitmap(words))));
            case "classify":
                try (TofeClassifier one = TofeClassifier.create(context)) {
                    return one.classify(bitmap(words)).toString();
                }
            case "selfTest": // BUDGET
                try (TofeClassifier one = TofeClassifier.create(context, Budget.valueOf(words[1]), 2)) {
                    SelfTestResult result = one.selfTest();
                    return result + " " + result.getSnrDb() + " " + result.getKeptOverlap();
                }
            case "closed":
                TofeClassifier closed = TofeClassifier.create(context);
                closed.close();
                closed.close();
                return closed.classify(bitmap(words)).toString();
            case "recycled":
                Bitmap recycled = bitmap(words);
                recycled.recycled = true;
                try (TofeClassifier one = TofeClassifier.create(context)) {
                    return one.classify(recycled).toString();
                }
            case "faulty": // FILE WIDTH HEIGHT: bitmaps that are recycled meanwhile, and too large
                String told = "";
                for (Throwable fault : new Throwable[] {new IllegalStateException("recycled"), new OutOfMemoryError("large")}) {
                    Bitmap faulty = bitmap(words);
                    faulty.fault = fault;
                    try (TofeClassifier one = TofeClassifier.create(context)) {
                        one.classify(faulty);
                    } catch (TofeException error) {
                        told += error.getReason() + ": " + error.getMessage() + "; ";
                    }
                }
                return told;
            case "together": // FILE WIDTH HEIGHT FILE WIDTH HEIGHT
                return Together.run(context, bitmap(words), bitmap(Arrays.copyOfRange(words, 3, 7)));
            case "golden": // FILE BUDGET: a golden.json as if it were the package's
                String text = new String(Files.readAllBytes(new File(words[1]).toPath()), StandardCharsets.UTF_8);
                return SelfTest.INSTANCE.read(text, Budget.valueOf(words[2])).size() + " vectors";
            case "nothingMeasured":
                OutputDistance nothing = new OutputDistance();
                return SelfTest.INSTANCE.judge(nothing, Collections.singletonList(Double.NaN)).toString();
            case "onMain":
                CompletableFuture<String> tried = new CompletableFuture<>();
                Thread main = new Thread(() -> tried.complete(attempt(context)), Looper.MAIN);
                main.start();
                return tried.get();
            case "async": // [broken | refused]
                return async(words.length == 1 ? "" : words[1], context);
            default:
                throw new IllegalArgumentException(words[0]);
        }
    }

    /** What each callback said. */
    private static String async(String way, Context context) throws Exception {
        LinkedBlockingQueue<String> told = new LinkedBlockingQueue<>();
        TofeClassifier.Callback callback = new TofeClassifier.Callback() {
            @Override
            public void onReady(TofeClassifier classifier) {
                told.add("ready on " + Thread.currentThread().getName());
                try {
                    classifier.close();
                } catch (TofeException error) {
                    told.add(error.getMessage());
                }
            }

            @Override
            public void onError(TofeException error) {
                told.add(error.getReason() + " on " + Thread.currentThread().getName() + ": " + error.getMessage());
            }
        };
        Context used = way.equals("broken") ? new Context(null, null) {
            @Override
            public AssetManager getAssets() {
                throw new AssertionError("no assets");
            }
        } : context;
        Executor refusing = task -> {
            throw new RejectedExecutionException("shut down");
        };
        TofeClassifier.createAsync(used, callback, Budget.DEFAULT, 0, way.equals("refused") ? refusing : null);
        String first = told.take();
        String second = told.poll(100, TimeUnit.MILLISECONDS);
        return second == null ? first : first + "; " + second;
    }

    private static String attempt(Context context) {
        try (TofeClassifier one = TofeClassifier.create(context)) {
            return "loaded";
        } catch (TofeException error) {
            return error.getReason() + ": " + error.getMessage();
        }
    }

    /** FILE WIDTH HEIGHT: four bytes a pixel, A R G B. */
    private static Bitmap bitmap(String[] words) throws Exception {
        int width = Integer.parseInt(words[2]);
        int height = Integer.parseInt(words[3]);
        int[] argb = new int[width * height];
        ByteBuffer.wrap(Files.readAllBytes(new File(words[1]).toPath())).order(ByteOrder.BIG_ENDIAN).asIntBuffer().get(argb);
        return new Bitmap(argb, width, height, Bitmap.Config.HARDWARE);
    }

    private static String write(String file, float[] values) throws Exception {
        ByteBuffer bytes = ByteBuffer.allocate(4 * values.length).order(ByteOrder.LITTLE_ENDIAN);
        bytes.asFloatBuffer().put(values);
        Files.write(new File(file).toPath(), bytes.array());
        return "written";
    }

    private static String writeBytes(String file, int[] values) throws Exception {
        byte[] bytes = new byte[values.length];
        for (int i = 0; i < values.length; i++) bytes[i] = (byte) values[i];
        Files.write(new File(file).toPath(), bytes);
        return "written";
    }
}
