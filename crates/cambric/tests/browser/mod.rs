//! A real browser for tests, in a network namespace of its own that has a loopback interface and nothing else.
//!
//! It is spoken with over pipes (Chrome DevTools Protocol, `--remote-debugging-pipe`: messages end with a zero byte).

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

pub mod example;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{self, Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};
use std::{io, thread};

use kernel::netns::{self, NetNs};
use serde_json::{Value, json};

use crate::lab_common::succeed;

const PROGRAM: &str = "chromium-headless-shell";
/// How long anything may take. Most of it is the machine's.
const PATIENCE: Duration = Duration::from_secs(60);

/// A network namespace with nothing but its loopback interface.
pub struct Space {
    path: PathBuf,
    pub namespace: NetNs,
}

impl Space {
    pub fn new(name: &str) -> Space {
        let name = format!("cambric-{name}-{}", process::id());
        let path = PathBuf::from(netns::NAMED).join(&name);
        let namespace = netns::create_named(&path).unwrap();
        succeed(Command::new("ip").args(["-n", &name, "link", "set", "lo", "up"]));
        Space { path, namespace }
    }

    /// Listens on a port of its loopback interface; 0 is any.
    pub fn listen(&self, port: u16) -> TcpListener {
        netns::run_in(&self.namespace, || TcpListener::bind(("127.0.0.1", port))).unwrap().unwrap()
    }

    /// Lets connections to a port of its loopback interface come to the same port of the test's own.
    pub fn forward(&self, to: SocketAddr) {
        let listener = self.listen(to.port());
        thread::spawn(move || {
            for inner in listener.incoming().map_while(Result::ok) {
                let Ok(outer) = TcpStream::connect(to) else { continue };
                for (mut from, mut to) in [(inner.try_clone(), outer.try_clone()), (Ok(outer), Ok(inner))]
                    .map(|(from, to)| (from.unwrap(), to.unwrap()))
                {
                    thread::spawn(move || {
                        // That either end hangs up is how it ends.
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Write);
                    });
                }
            }
        });
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        netns::remove_named(&self.path).unwrap();
    }
}

/// A browser with one tab.
pub struct Browser {
    process: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    _profile: tempfile::TempDir,
    count: u64,
    session: Option<String>,
    /// What has gone wrong in the page, as the browser tells it.
    pub errors: Vec<String>,
    /// All that was asked for.
    pub requests: Vec<String>,
}

impl Browser {
    pub fn start(space: &Space) -> Browser {
        let profile = tempfile::tempdir().unwrap();
        // The browser reads from its descriptor 3 and writes to 4.
        let script = format!("exec {PROGRAM} \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1");
        let mut command = Command::new("sh");
        command.args(["-c", &script, PROGRAM, "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu"]);
        command.args(["--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage"]);
        command.arg(format!("--user-data-dir={}", profile.path().display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = netns::run_in(&space.namespace, || command.spawn()).unwrap().unwrap();
        let commands = process.stdin.take().unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            for message in out.split(0).map_while(Result::ok) {
                if sender.send(serde_json::from_slice(&message).unwrap()).is_err() {
                    return;
                }
            }
        });
        let mut browser = Browser {
            process,
            commands,
            messages,
            _profile: profile,
            count: 0,
            session: None,
            errors: Vec::new(),
            requests: Vec::new(),
        };
        browser.session = Some(browser.tab());
        for domain in ["Page", "Runtime", "Log", "Network", "Accessibility"] {
            browser.ask(&format!("{domain}.enable"), json!({}));
        }
        browser.resize(1280, 900);
        browser
    }

    /// Opens another tab and gives its session.
    fn tab(&mut self) -> String {
        let current = self.session.take();
        let target = self.ask("Target.createTarget", json!({"url": "about:blank"}))["targetId"].clone();
        let attached = self.ask("Target.attachToTarget", json!({"targetId": target, "flatten": true}));
        self.session = current;
        attached["sessionId"].as_str().unwrap().to_owned()
    }

    /// Sends a command and waits for its answer.
    pub fn ask(&mut self, method: &str, parameters: Value) -> Value {
        self.count += 1;
        let mut message = json!({"id": self.count, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.commands.write_all(&[message.to_string().as_bytes(), b"\0"].concat()).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = self.messages.recv_timeout(left);
            let answer = answer.unwrap_or_else(|error| {
                panic!("{method} {parameters:.300}: {error}; errors of the page: {:#?}", self.errors)
            });
            if answer["id"] == self.count {
                assert!(answer["error"].is_null(), "{method} {parameters:.300}: {}", answer["error"]);
                return answer["result"].clone();
            }
            self.note(&answer);
        }
    }

    fn note(&mut self, event: &Value) {
        let parameters = &event["params"];
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => self.errors.push(parameters["exceptionDetails"].to_string()),
            Some("Log.entryAdded") if parameters["entry"]["level"] == "error" => {
                self.errors.push(parameters["entry"].to_string());
            }
            Some("Network.requestWillBeSent") => {
                self.requests.push(parameters["request"]["url"].as_str().unwrap().to_owned());
            }
            _ => {}
        }
    }

    pub fn resize(&mut self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.ask("Emulation.setDeviceMetricsOverride", size);
        // What observes sizes hears of it in the frame that is laid out next, and has drawn before the one after that.
        self.value(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))",
        );
    }

    /// What the user has told the operating system to prefer.
    pub fn prefers(&mut self, scheme: &str, motion: &str) {
        let features = json!([
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": motion},
        ]);
        self.ask("Emulation.setEmulatedMedia", json!({"features": features}));
    }

    /// Opens an address, from nothing.
    pub fn open(&mut self, url: &str) {
        for url in ["about:blank", url] {
            let opened = self.ask("Page.navigate", json!({"url": url}));
            assert!(opened["errorText"].is_null(), "{url}: {opened}");
        }
    }

    /// The value of an expression in the page; promises are waited for.
    pub fn value(&mut self, expression: &str) -> Value {
        let how = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.ask("Runtime.evaluate", how);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true; it is looked at whenever the page changes.
    pub fn until(&mut self, expression: &str) {
        let seconds = PATIENCE.as_secs() / 2;
        let so = self.value(&format!(
            "new Promise((resolve) => {{
               const so = () => {{ try {{ return {expression}; }} catch {{ return false; }} }};
               const look = () => {{ if (so()) {{ observer.disconnect(); resolve(true); }} }};
               const observer = new MutationObserver(look);
               observer.observe(document, {{subtree: true, childList: true, attributes: true, characterData: true}});
               setTimeout(() => resolve(so()), {seconds} * 1000);
               look();
             }})"
        ));
        if so != true {
            let text = self.value("document.body.innerText");
            panic!("not so: {expression}; the page says {text:#}; errors: {:#?}", self.errors);
        }
    }

    /// Clicks into the middle of an element, as with a mouse.
    pub fn click(&mut self, selector: &str) {
        let place = self.value(&format!(
            "(() => {{ const one = document.querySelector({selector:?}); one.scrollIntoView({{block: 'center'}});
               const box = one.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2]; }})()"
        ));
        for kind in ["mousePressed", "mouseReleased"] {
            let event =
                json!({"type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1});
            self.ask("Input.dispatchMouseEvent", event);
        }
    }

    /// Presses a key.
    pub fn key(&mut self, key: &str) {
        // Windows' virtual key codes, by which the protocol names keys.
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            "End" => 35,
            "Home" => 36,
            "ArrowDown" => 40,
            "ArrowRight" => 39,
            other => panic!("no code for {other}"),
        };
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let event =
                json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
            self.ask("Input.dispatchKeyEvent", event);
        }
    }

    /// How many colours a picture of the whole page has, and how light it is, from 0 to 255.
    pub fn colours(&mut self) -> (u64, f64) {
        let shot =
            self.ask("Page.captureScreenshot", json!({"format": "png", "captureBeyondViewport": true}));
        let png = shot["data"].as_str().unwrap().to_owned();
        // The page's own policy lets nothing in, so a tab without one looks at it.
        let tab = self.tab();
        let page = self.session.replace(tab);
        let seen = self.value(&format!(
            "(async () => {{
               const image = await createImageBitmap(await (await fetch('data:image/png;base64,{png}')).blob());
               const canvas = new OffscreenCanvas(image.width, image.height);
               const context = canvas.getContext('2d');
               context.drawImage(image, 0, 0);
               const pixels = new Uint32Array(context.getImageData(0, 0, image.width, image.height).data.buffer);
               const light = pixels.reduce((sum, pixel) => sum + ((pixel >> 8) & 255), 0) / pixels.length;
               return [new Set(pixels).size, light];
             }})()"
        ));
        self.session = page;
        (seen[0].as_u64().unwrap(), seen[1].as_f64().unwrap())
    }

    /// The names of all that has a role, as a screen reader is told them.
    pub fn names(&mut self, role: &str) -> Vec<String> {
        let tree = self.ask("Accessibility.getFullAXTree", json!({}));
        let nodes = tree["nodes"].as_array().unwrap().iter();
        let of_role = nodes.filter(|node| node["role"]["value"] == role && node["ignored"] == false);
        of_role.filter_map(|node| Some(node["name"]["value"].as_str()?.to_owned())).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has noticed by then.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
