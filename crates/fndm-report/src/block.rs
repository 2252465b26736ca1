//! What stands in a page beside the viewer: words, tables, charts, pictures.

use crate::html::{base64, escape, href};

/// A picture in a row of pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// The pixels as PNG.
    pub png: Vec<u8>,
    /// What is on it, for who doesn't see it.
    pub alt: String,
    /// The words below it.
    pub caption: String,
    /// Where it leads, relative to the page: a path, and a part of that page behind `#`.
    pub link: Option<(String, String)>,
}

/// A part of a section.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Block {
    /// A paragraph.
    Text(String),
    /// Points.
    List(Vec<String>),
    /// A table. The first cell of a row is its name; the first row is the header.
    Table {
        /// What it is of.
        caption: String,
        /// Header and rows.
        cells: Vec<Vec<String>>,
    },
    /// A chart.
    Chart {
        /// As SVG: see [`fndm_pictures`].
        svg: String,
        /// What it shows, for who doesn't see it.
        alt: String,
        /// The words below it.
        caption: String,
    },
    /// Pictures beside each other.
    Pictures(Vec<Picture>),
}

/// A section with a heading.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// The heading.
    pub title: String,
    /// What stands below it.
    pub blocks: Vec<Block>,
    /// Whether it is closed until a reader opens it.
    pub closed: bool,
}

impl Section {
    /// An open section.
    #[must_use]
    pub fn new(title: &str, blocks: Vec<Block>) -> Self {
        Self {
            title: title.into(),
            blocks,
            closed: false,
        }
    }

    /// A section that a reader opens.
    #[must_use]
    pub fn closed(title: &str, blocks: Vec<Block>) -> Self {
        Self {
            closed: true,
            ..Self::new(title, blocks)
        }
    }

    pub(crate) fn html(&self) -> String {
        let inner: String = self.blocks.iter().map(Block::html).collect();
        let title = escape(&self.title);
        match self.closed {
            true => format!(
                "<details class=\"section\"><summary><h2>{title}</h2></summary>{inner}</details>\n"
            ),
            false => format!("<section><h2>{title}</h2>{inner}</section>\n"),
        }
    }
}

impl Block {
    fn html(&self) -> String {
        match self {
            Self::Text(text) => format!("<p>{}</p>", escape(text)),
            Self::List(points) => {
                let points = points.iter().map(|p| format!("<li>{}</li>", escape(p)));
                format!("<ul>{}</ul>", points.collect::<String>())
            }
            Self::Table { caption, cells } => table(caption, cells),
            Self::Chart { svg, alt, caption } => format!(
                "<figure class=\"chart\"><div role=\"img\" aria-label=\"{}\">{}</div><figcaption>{}</figcaption></figure>",
                escape(alt),
                inline(svg),
                escape(caption)
            ),
            Self::Pictures(pictures) => {
                let all: String = pictures.iter().map(picture).collect();
                format!("<ul class=\"pictures\">{all}</ul>")
            }
        }
    }
}

/// A table in a box that scrolls sideways where the page is narrow.
fn table(caption: &str, cells: &[Vec<String>]) -> String {
    let mut out = format!(
        "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{0}\"><table><caption>{0}</caption>",
        escape(caption)
    );
    for (n, row) in cells.iter().enumerate() {
        out.push_str(match n {
            0 => "<thead><tr>",
            1 => "<tbody><tr>",
            _ => "<tr>",
        });
        for (column, cell) in row.iter().enumerate() {
            let text = escape(cell);
            out.push_str(&match (n, column) {
                (0, _) => format!("<th scope=\"col\">{text}</th>"),
                (_, 0) => format!("<th scope=\"row\">{text}</th>"),
                _ => format!("<td>{text}</td>"),
            });
        }
        out.push_str(if n == 0 { "</tr></thead>" } else { "</tr>" });
    }
    if cells.len() > 1 {
        out.push_str("</tbody>");
    }
    out.push_str("</table></div>");
    out
}

fn picture(picture: &Picture) -> String {
    let image = format!(
        "<img src=\"data:image/png;base64,{}\" alt=\"{}\">",
        base64(&picture.png),
        escape(&picture.alt)
    );
    let caption = escape(&picture.caption);
    let inner = format!("<figure>{image}<figcaption>{caption}</figcaption></figure>");
    match &picture.link {
        Some((path, part)) => format!(
            "<li><a href=\"{}#{}\">{inner}</a></li>",
            href(path),
            href(part).replace("%3D", "=")
        ),
        None => format!("<li>{inner}</li>"),
    }
}

/// An SVG inside of HTML, which needs no name of its own.
fn inline(svg: &str) -> String {
    let svg = match svg.find("<svg") {
        Some(at) => &svg[at..],
        None => svg,
    };
    svg.replacen(" xmlns=\"http://www.w3.org/2000/svg\"", "", 1)
        .replacen("<svg ", "<svg aria-hidden=\"true\" focusable=\"false\" ", 1)
}
