//! The page's files, which are part of the binary.

/// A file of the page.
pub(crate) struct Asset {
    pub(crate) path: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) text: &'static str,
}

macro_rules! asset {
    ($path:literal, $file:literal, $kind:literal) => {
        Asset { path: $path, kind: $kind, text: include_str!(concat!("../assets/", $file)) }
    };
}

const ASSETS: [Asset; 8] = [
    asset!("/", "index.html", "text/html; charset=utf-8"),
    asset!("/page.css", "page.css", "text/css; charset=utf-8"),
    asset!("/icon.svg", "icon.svg", "image/svg+xml"),
    asset!("/page.js", "page.js", "text/javascript; charset=utf-8"),
    asset!("/draw.js", "draw.js", "text/javascript; charset=utf-8"),
    asset!("/lines.js", "lines.js", "text/javascript; charset=utf-8"),
    asset!("/panels.js", "panels.js", "text/javascript; charset=utf-8"),
    asset!("/tools.js", "tools.js", "text/javascript; charset=utf-8"),
];

/// The file of a path.
pub(crate) fn asset(path: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.path == path)
}
