//! The report in a real browser. Needs Chromium: `apt-get install chromium`, or its path in SOCTOK_CHROMIUM.
//!
//!     cargo test --release --test browser -- --ignored
//!
//! With SOCTOK_SCREENSHOTS=DIR the pages are also drawn into that folder: wide, 400 px, in the dark, and printed.

mod support;
#[path = "support/world.rs"]
mod world;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use support::text;

/// Loads the page in a frame of WIDTH px, and writes what it measures into itself.
const MEASURE: &str = r#"<!DOCTYPE html><html><body style="margin:0"><pre id="found">nothing</pre>
<iframe id="page" width="WIDTH" height="900" style="border:0"></iframe><script>
const frame = document.getElementById("page");
frame.onload = () => {
  const page = frame.contentDocument, view = frame.contentWindow;
  const figures = [...page.querySelectorAll("figure svg")].map(svg => {
    const box = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll("text")];
    const scale = box.width / svg.viewBox.baseVal.width, sheet = svg.getBoundingClientRect();
    const outside = texts.filter(text => {
      const place = text.getBoundingClientRect();
      return place.left < sheet.left - 2 || place.right > sheet.right + 2 || place.top < sheet.top - 2 || place.bottom > sheet.bottom + 2;
    }).map(text => text.textContent);
    const images = [...svg.querySelectorAll("image")].map(image => image.getBoundingClientRect().width > 0);
    return { title: svg.querySelector("title").textContent, width: box.width, height: box.height,
             shapes: svg.querySelectorAll("path, rect, circle, image").length, outside, images,
             smallest: Math.min(...texts.map(text => parseFloat(text.getAttribute("font-size")) * scale)) };
  });
  const wide = [...page.body.querySelectorAll("*")].filter(e => e.getBoundingClientRect().right > view.innerWidth + 1
    && !e.closest(".scroll, pre, svg")).map(e => e.tagName + "." + e.className);
  const text = parseFloat(view.getComputedStyle(page.querySelector("main p")).fontSize);
  document.getElementById("found").textContent = "FOUND" + JSON.stringify({
    width: view.innerWidth, scrolls: page.documentElement.scrollWidth, wide, figures, text,
    fetched: view.performance.getEntriesByType("resource").map(entry => entry.name),
  }) + "FOUND";
};
frame.src = "/page.html";
</script></body></html>"#;

fn chromium() -> PathBuf {
    let named = std::env::var_os("SOCTOK_CHROMIUM").map(PathBuf::from);
    let known = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].map(PathBuf::from);
    named.into_iter().chain(known).find(|path| path.is_file()).expect(
        "no Chromium on this machine: install it (Debian: `apt-get install chromium`) or name it in SOCTOK_CHROMIUM",
    )
}

fn browse(folder: &Path, arguments: &[&str]) -> Output {
    let profile = tempfile::tempdir_in(folder).expect("a profile");
    let output = Command::new(chromium())
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"])
        .args(["--disable-component-update", "--disable-sync", "--disable-extensions", "--hide-scrollbars"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=10000"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("Chromium starts");
    assert!(output.status.success(), "{}", text(&output.stderr));
    output
}

/// Serves the files and notes what was asked for.
fn serve(page: String) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let notes = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut buffer) = (stream.expect("a request"), [0; 8192]);
            let count = stream.read(&mut buffer).unwrap_or(0);
            let request = String::from_utf8_lossy(&buffer[..count]).into_owned();
            let Some(path) = request.split(' ').nth(1).map(str::to_owned) else { continue };
            let body = match path.as_str() {
                "/page.html" => page.clone(),
                measure => match measure.strip_prefix("/measure-") {
                    Some(width) => MEASURE.replace("WIDTH", width),
                    None => String::new(),
                },
            };
            notes.lock().expect("nobody panics with it").push(path);
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).ok();
        }
    });
    (port, asked)
}

#[test]
#[ignore = "needs Chromium"]
fn a_report_is_drawn_whole_at_every_width_without_asking_for_anything() {
    let folder = world::ran();
    folder.ok(&["report", "shown.toml", "-o", "page.html"]);
    let page = std::fs::read_to_string(folder.path().join("page.html")).expect("is written");
    let figures = page.matches("<figure ").count();
    let (port, asked) = serve(page);
    for width in [400, 768, 1280] {
        let output = browse(folder.path(), &["--dump-dom", &format!("http://127.0.0.1:{port}/measure-{width}")]);
        let (dom, log) = (text(&output.stdout), text(&output.stderr));
        assert!(!log.contains("CONSOLE"), "the console says something: {log}");
        let found = dom.split("FOUND").nth(1).unwrap_or_else(|| panic!("nothing was measured: {dom}"));
        let found: Value = serde_json::from_str(&found.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
            .unwrap_or_else(|error| panic!("{error} in {found}"));
        assert_eq!(found["width"], width);
        assert!(
            found["scrolls"].as_i64() <= Some(width),
            "the page is {} px wide at {width}: {}",
            found["scrolls"],
            found["wide"]
        );
        assert_eq!(found["wide"], serde_json::json!([]), "stands out at {width}");
        assert_eq!(found["fetched"], serde_json::json!([]), "was fetched");
        assert!(found["text"].as_f64() >= Some(14.0));
        let drawn = found["figures"].as_array().expect("a list");
        assert_eq!(drawn.len(), figures);
        for figure in drawn {
            let (title, of) = (&figure["title"], |name: &str| figure[name].as_f64().unwrap_or(0.0));
            assert!(of("width") > 250.0 && of("height") > 60.0 && of("shapes") > 5.0, "{title} is not drawn: {figure}");
            assert!(of("smallest") >= 7.5, "text of {title} is {} px high at {width}", of("smallest"));
            assert_eq!(figure["outside"], serde_json::json!([]), "text of {title} is cut off");
            assert!(figure["images"].as_array().expect("a list").iter().all(|drawn| drawn == true), "{title}");
        }
    }
    let asked = asked.lock().expect("nobody panics with it").clone();
    assert!(
        asked.iter().all(|path| path == "/page.html" || path.starts_with("/measure-") || path == "/favicon.ico"),
        "{asked:?}"
    );
    if let Some(shots) = std::env::var_os("SOCTOK_SCREENSHOTS").map(PathBuf::from) {
        std::fs::create_dir_all(&shots).expect("makes the folder");
        let address = format!("http://127.0.0.1:{port}");
        let shot = |name: &str| format!("--screenshot={}", shots.join(name).display());
        let page = format!("{address}/page.html");
        browse(folder.path(), &[&shot("wide.png"), "--window-size=1280,6000", &page]);
        browse(
            folder.path(),
            &[
                &shot("dark.png"),
                "--window-size=1280,6000",
                "--force-dark-mode",
                "--blink-settings=preferredColorScheme=0",
                &page,
            ],
        );
        browse(folder.path(), &[&shot("narrow.png"), "--window-size=500,9000", &page]);
        browse(folder.path(), &[&format!("--print-to-pdf={}", shots.join("page.pdf").display()), &page]);
        std::fs::copy(folder.path().join("page.html"), shots.join("page.html")).expect("copies");
    }
}
