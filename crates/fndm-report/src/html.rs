//! Text as HTML, and the frame that every page has.

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

/// What a page is made of. `body` is HTML already.
pub(crate) struct Page<'a> {
    pub(crate) title: &'a str,
    pub(crate) body: String,
    /// The program in the page.
    pub(crate) script: &'a str,
    /// Elements with data behind the body.
    pub(crate) data: String,
}

const STYLE: &str = include_str!("assets/page.css");
/// What every page says of itself.
const WARNING: &str =
    "Not a medical device. For research use only; not for diagnosis or treatment.";

impl Page<'_> {
    /// The whole file. Its policy lets a browser load nothing, and run no script but this page's own.
    pub(crate) fn finish(&self) -> String {
        let hash = STANDARD.encode(Sha256::digest(self.script.as_bytes()));
        let title = escape(self.title);
        let (body, data, script) = (&self.body, &self.data, self.script);
        let page = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; \
             style-src 'unsafe-inline'; script-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
             <a class=\"skip\" href=\"#main\">Skip to the content</a>\n\
             <aside class=\"warning\" aria-label=\"Warning\">{WARNING}</aside>\n\
             {body}\n{data}<script>{script}</script>\n</body>\n</html>\n"
        );
        let seal = seal(&page);
        page + &seal
    }
}

/// The last line of a page: a checksum of all lines above it.
fn seal(page: &str) -> String {
    let hash = STANDARD.encode(Sha256::digest(page.as_bytes()));
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
    !page.is_empty() && last == seal(page)
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
            data: String::new(),
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
