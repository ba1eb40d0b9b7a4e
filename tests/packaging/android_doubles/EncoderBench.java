import android.content.Context;
import android.graphics.Bitmap;
import java.io.File;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import org.example.model.*;

/** Drives a packaged library that gives vectors. Arguments: assets, private files, then FILE:WIDTH:HEIGHT of an image. */
public final class EncoderBench {
    public static void main(String[] arguments) throws Exception {
        Context context = new Context(new File(arguments[0]), new File(arguments[1]));
        for (Budget budget : Budget.values()) {
            try (TofeEncoder one = TofeEncoder.create(context, budget)) {
                System.out.println(one.selfTest());
            }
        }
        String[] words = arguments[2].split(":");
        try (TofeEncoder one = TofeEncoder.create(context)) {
            StringBuilder line = new StringBuilder();
            for (float value : one.features(bitmap(words))) line.append(value).append(' ');
            System.out.println(line);
        } catch (TofeException error) {
            System.out.println(error.getReason() + ": " + error.getMessage());
        }
    }

    private static Bitmap bitmap(String[] words) throws Exception {
        int[] argb = new int[Integer.parseInt(words[1]) * Integer.parseInt(words[2])];
        ByteBuffer.wrap(Files.readAllBytes(new File(words[0]).toPath())).asIntBuffer().get(argb);
        return new Bitmap(argb, Integer.parseInt(words[1]), Integer.parseInt(words[2]), Bitmap.Config.HARDWARE);
    }
}
