import android.content.Context;
import android.graphics.Bitmap;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicBoolean;
import org.example.model.*;

/** One classifier used by two threads, while others are loaded and closed, and closed at the end while it is in use. */
final class Together {
    private static final int ROUNDS = 40;

    static String run(Context context, Bitmap first, Bitmap second) throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(3, task -> {
            Thread thread = new Thread(task);
            thread.setDaemon(true); // a thread that waits for ever must not keep the program
            return thread;
        });
        TofeClassifier shared = TofeClassifier.create(context);
        String wanted = shared.classify(first).toString();
        String other = shared.classify(second).toString();
        CountDownLatch done = new CountDownLatch(2);
        AtomicBoolean closed = new AtomicBoolean();
        List<Future<String>> said = new ArrayList<>();
        said.add(threads.submit(() -> used(shared, first, wanted, done, closed)));
        said.add(threads.submit(() -> used(shared, second, other, done, closed)));
        Callable<String> loading = () -> {
            try {
                while (done.getCount() > 0) TofeClassifier.create(context).close();
                return "loaded";
            } catch (TofeException error) {
                return stop(done, error.getReason() + " " + error.getMessage());
            }
        };
        said.add(threads.submit(loading));
        done.await();
        closed.set(true);
        shared.close();
        List<String> lines = new ArrayList<>();
        for (Future<String> one : said) lines.add(one.get());
        return (wanted.equals(other) ? "the images are alike, " : "") + String.join(", ", lines);
    }

    private static String used(
            TofeClassifier shared, Bitmap image, String wanted, CountDownLatch done, AtomicBoolean closed) {
        for (int round = 0; ; round++) {
            if (round == ROUNDS) done.countDown();
            try {
                if (!shared.classify(image).toString().equals(wanted)) return stop(done, "another image's classes");
            } catch (TofeException error) {
                boolean rightly = error.getReason() == TofeException.Reason.CLOSED && closed.get();
                return stop(done, rightly ? "same until closed" : error.getReason() + " " + error.getMessage());
            } catch (RuntimeException error) {
                return stop(done, error.toString());
            }
        }
    }

    private static String stop(CountDownLatch done, String line) {
        while (done.getCount() > 0) done.countDown();
        return line;
    }
}
