import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Base64;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * A client with the defaults of java.net.http: it offers HTTP/2 by an Upgrade header with every request.
 *
 * Arguments: the service's URL, the contact center, a recording as a JSON file, its id, its media as a file.
 */
public class Story {
    static final HttpClient client = HttpClient.newHttpClient();
    static String service;

    public static void main(String[] arguments) throws Exception {
        service = arguments[0];
        String ops = service + "/api/v2/ops/contact-centers/" + arguments[1] + "/recordings";
        String id = URLEncoder.encode(arguments[3], StandardCharsets.UTF_8).replace("+", "%20");
        byte[] media = Files.readAllBytes(Path.of(arguments[4]));

        String recording = Files.readString(Path.of(arguments[2]));
        expect(201, send("ops", post(ops + "?refresh=wait_for", recording)));
        expect(200, send("ops", post(ops, recording)));

        String found = expect(200, send("admin", get(service + "/api/v2/recordings?callerPhoneNumber=%2B1650*")));
        Matcher uri = Pattern.compile("\"mediaUri\":\"([^\"]+)\"").matcher(found);
        check(uri.find(), "a mediaUri in " + found);

        play(uri.group(1), null, 200, media);
        play(uri.group(1), "bytes=1000-1999", 206, Arrays.copyOfRange(media, 1000, 2000));
        play(uri.group(1), "bytes=-100", 206, Arrays.copyOfRange(media, media.length - 100, media.length));

        String own = service + "/api/v2/recordings/" + id;
        expect(200, send("admin", post(own, "{\"operationName\": \"applyNonDelete\"}")));
        expect(403, send("ops", HttpRequest.newBuilder(URI.create(ops + "/" + id)).DELETE()));
        expect(200, send("admin", post(own, "{\"operationName\": \"unapplyNonDelete\"}")));
        expect(200, send("ops", HttpRequest.newBuilder(URI.create(ops + "/" + id + "?subresources=*")).DELETE()));
        expect(404, send("admin", get(own)));
        System.out.println("done");
    }

    static HttpRequest.Builder get(String uri) {
        return HttpRequest.newBuilder(URI.create(uri)).GET();
    }

    static HttpRequest.Builder post(String uri, String body) {
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(uri));
        return request.header("Content-Type", "application/json").POST(BodyPublishers.ofString(body));
    }

    static HttpResponse<byte[]> send(String user, HttpRequest.Builder request) throws Exception {
        byte[] credentials = (user + ":" + user + "-password").getBytes(StandardCharsets.UTF_8);
        request.header("Authorization", "Basic " + Base64.getEncoder().encodeToString(credentials));
        return client.send(request.build(), BodyHandlers.ofByteArray());
    }

    static void play(String uri, String range, int status, byte[] content) throws Exception {
        HttpRequest.Builder request = get(uri);
        if (range != null) {
            request.header("Range", range);
        }
        HttpResponse<byte[]> response = send("admin", request);
        check(response.statusCode() == status, range + " is answered " + response.statusCode());
        check(Arrays.equals(response.body(), content), range + " has other bytes");
    }

    static String expect(int status, HttpResponse<byte[]> response) {
        String body = new String(response.body(), StandardCharsets.UTF_8);
        check(response.statusCode() == status, response.request().method() + " " + response.uri() + ": " + response.statusCode() + " " + body);
        return body;
    }

    static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }
}
