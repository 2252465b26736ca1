//! Text as HTML, and the frame that every page has.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

/// Text as HTML has it, between tags and in quoted attributes.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // HTML has no way of saying these.
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A path in a link: each byte that a path segment can't hold as `%XX`. A first segment with a colon would be a scheme.
pub(crate) fn href(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    path.bytes()
        .map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

/// A JSON text that can stand in a script element: no `<` ends it.
pub(crate) fn json(value: &impl serde::Serialize) -> crate::Result<String> {
    // Outside of strings JSON has none of these.
    let text = serde_json::to_string(value)?;
    Ok(text
        .replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026"))
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Writes bytes as base64, a piece at a time: a layer's picture needn't be in memory twice.
pub(crate) fn write_base64(out: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    // Three bytes are four letters: whole pieces end without padding.
    let mut pieces = bytes.chunks(3 << 12);
    pieces.try_for_each(|piece| out.write_all(STANDARD.encode(piece).as_bytes()))
}

/// What a page is made of. `body` is HTML already.
pub(crate) struct Page<'a> {
    pub(crate) title: &'a str,
    pub(crate) body: String,
    /// The program in the page.
    pub(crate) script: &'a str,
    /// Writes elements with data behind the body.
    pub(crate) data: &'a dyn Fn(&mut dyn Write) -> io::Result<()>,
}

const STYLE: &str = include_str!("assets/page.css");
/// What every page says of itself.
const WARNING: &str =
    "Not a medical device. For research use only; not for diagnosis or treatment.";

impl Page<'_> {
    /// The whole file.
    pub(crate) fn finish(&self) -> String {
        let mut bytes = Vec::new();
        // A vector takes everything.
        let _ = self.write(&mut bytes);
        String::from_utf8(bytes)
            .unwrap_or_else(|odd| String::from_utf8_lossy(odd.as_bytes()).into_owned())
    }

    /// Writes the whole file. Its policy lets a browser load nothing, and run no script but this page's own.
    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut out = Sealing {
            out,
            hash: Sha256::new(),
        };
        let hash = STANDARD.encode(Sha256::digest(self.script.as_bytes()));
        let title = escape(self.title);
        let (body, script) = (&self.body, self.script);
        write!(
            out,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; \
             style-src 'unsafe-inline'; script-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
             <a class=\"skip\" href=\"#main\">Skip to the content</a>\n\
             <aside class=\"warning\" aria-label=\"Warning\">{WARNING}</aside>\n\
             {body}\n"
        )?;
        (self.data)(&mut out)?;
        write!(out, "<script>{script}</script>\n</body>\n</html>\n")?;
        let seal = seal(out.hash);
        out.out.write_all(seal.as_bytes())
    }
}

/// A writer that knows the checksum of what it wrote.
struct Sealing<'a> {
    out: &'a mut dyn Write,
    hash: Sha256,
}

impl Write for Sealing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hash.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The last line of a page: a checksum of all lines above it.
fn seal(page: Sha256) -> String {
    let hash = STANDARD.encode(page.finalize());
    format!("<!-- written by fndm, sha256 of the lines above: {hash} -->\n")
}

/// Whether a text is a page of this crate as it was written: such a file may be replaced by a newer one.
#[must_use]
pub fn is_unchanged_page(text: &str) -> bool {
    let end = text
        .trim_end_matches('\n')
        .rfind('\n')
        .map_or(0, |at| at + 1);
    let (page, last) = text.split_at(end);
    !page.is_empty() && last == seal(Sha256::new_with_prefix(page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_is_markup() {
        assert_eq!(
            escape("<script>a & \"b\" 'c'\u{0}</script>"),
            "&lt;script&gt;a &amp; &quot;b&quot; &#39;c&#39;\u{fffd}&lt;/script&gt;"
        );
        assert_eq!(
            json(&"</script><!--&").unwrap(),
            "\"\\u003c/script\\u003e\\u003c!--\\u0026\""
        );
    }

    #[test]
    fn a_page_knows_whether_it_was_changed() {
        let page = Page {
            title: "t",
            body: "<h1>t</h1>".into(),
            script: "",
            data: &|_| Ok(()),
        };
        let text = page.finish();
        assert!(is_unchanged_page(&text));
        for other in [
            "",
            "\n",
            "<!DOCTYPE html>\n",
            &text.replace("<h1>", "<h1>a "),
            &format!("{text}\n"),
            &text[1..],
        ] {
            assert!(!is_unchanged_page(other));
        }
    }

    #[test]
    fn a_link_leads_nowhere_else() {
        assert_eq!(href("HGG/a b/report.html"), "HGG/a%20b/report.html");
        assert_eq!(href("javascript:alert(1)"), "javascript%3Aalert%281%29");
        assert_eq!(href("é#?"), "%C3%A9%23%3F");
    }
}
