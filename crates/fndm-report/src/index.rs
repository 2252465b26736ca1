//! The page of many patients.

use crate::block::Section;
use crate::check::Light;
use crate::html::{Page, base64, escape, href};

/// A column of the table of patients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its title.
    pub title: String,
    /// Digits behind the point of its numbers.
    pub digits: usize,
}

/// A patient in the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The patient.
    pub id: String,
    /// The patient's page, relative to the index; none where there is no page.
    pub page: Option<String>,
    /// A small picture, as PNG.
    pub thumbnail: Option<Vec<u8>>,
    /// A number for each column, where there is one.
    pub numbers: Vec<Option<f64>>,
    /// What the check of the input says.
    pub check: Option<Light>,
    /// What a user should know.
    pub notes: Vec<String>,
}

/// The page of many patients: tables and charts, a table of patients with links to their pages, who was left out.
#[derive(Debug, Clone, Default)]
pub struct IndexPage {
    /// The heading.
    pub title: String,
    /// What was done, in a sentence.
    pub summary: String,
    /// What stands before the patients.
    pub before: Vec<Section>,
    /// Titles of the numbers of each patient.
    pub columns: Vec<Column>,
    /// The patients.
    pub entries: Vec<Entry>,
    /// Who was left out, and why.
    pub left_out: Vec<(String, String)>,
    /// What stands behind them.
    pub after: Vec<Section>,
}

impl IndexPage {
    /// The page as one file of HTML.
    #[must_use]
    pub fn html(&self) -> String {
        let mut body = format!(
            "<header><h1>{}</h1><p>{}</p></header>\n<main id=\"main\">\n",
            escape(&self.title),
            escape(&self.summary)
        );
        body.extend(self.before.iter().map(Section::html));
        body.push_str(&self.patients());
        if !self.left_out.is_empty() {
            body.push_str("<section id=\"left-out\"><h2>Left out</h2><ul>");
            for (patient, reason) in &self.left_out {
                let (patient, reason) = (escape(patient), escape(reason));
                body.push_str(&format!("<li><strong>{patient}</strong>: {reason}</li>"));
            }
            body.push_str("</ul></section>\n");
        }
        body.extend(self.after.iter().map(Section::html));
        body.push_str("</main>\n");
        let page = Page {
            title: &self.title,
            body,
            script: include_str!("assets/index.js"),
            data: &|_| Ok(()),
        };
        page.finish()
    }

    fn patients(&self) -> String {
        if self.entries.is_empty() {
            return String::new();
        }
        let any = |has: fn(&Entry) -> bool| self.entries.iter().any(has);
        let pictures = any(|entry| entry.thumbnail.is_some());
        let checks = any(|entry| entry.check.is_some());
        let notes = any(|entry| !entry.notes.is_empty());
        let mut out = String::from(
            "<section><h2>Patients</h2><p><label for=\"filter\">Show patients whose name has</label> \
             <input id=\"filter\" type=\"search\" autocomplete=\"off\"> <span id=\"shown\" role=\"status\"></span></p>\n\
             <div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"Patients\"><table id=\"patients\">\
             <caption>A column's title sorts by it.</caption><thead><tr>",
        );
        if pictures {
            out.push_str("<th scope=\"col\">Largest slice</th>");
        }
        let mut titles = vec!["Patient"];
        titles.extend(self.columns.iter().map(|column| column.title.as_str()));
        if checks {
            titles.push("Input");
        }
        for title in titles {
            out.push_str(&format!(
                "<th scope=\"col\"><button type=\"button\" class=\"sort\">{}</button></th>",
                escape(title)
            ));
        }
        if notes {
            out.push_str("<th scope=\"col\">To be known</th>");
        }
        out.push_str("</tr></thead><tbody>\n");
        for entry in &self.entries {
            out.push_str(&self.row(entry, pictures, checks, notes));
        }
        out.push_str("</tbody></table></div></section>\n");
        out
    }

    fn row(&self, entry: &Entry, pictures: bool, checks: bool, notes: bool) -> String {
        let id = escape(&entry.id);
        let mut out = String::from("<tr>");
        if pictures {
            out.push_str(&match &entry.thumbnail {
                // The patient's name stands beside it.
                Some(png) => format!(
                    "<td><img loading=\"lazy\" alt=\"\" src=\"data:image/png;base64,{}\"></td>",
                    base64(png)
                ),
                None => "<td></td>".into(),
            });
        }
        let name = match &entry.page {
            Some(page) => format!("<a href=\"{}\">{id}</a>", href(page)),
            None => id.clone(),
        };
        out.push_str(&format!("<th scope=\"row\" data-sort=\"{id}\">{name}</th>"));
        for (n, column) in self.columns.iter().enumerate() {
            out.push_str(&match entry.numbers.get(n).copied().flatten() {
                Some(number) => format!(
                    "<td class=\"number\" data-sort=\"{number}\">{number:.*}</td>",
                    column.digits
                ),
                None => "<td class=\"number\" data-sort=\"\">-</td>".into(),
            });
        }
        if checks {
            out.push_str(&match entry.check {
                Some(light) => format!("<td data-sort=\"{}\">{}</td>", light as u8, light.html()),
                None => "<td data-sort=\"\">-</td>".into(),
            });
        }
        if notes {
            out.push_str(&format!("<td>{}</td>", escape(&entry.notes.join("; "))));
        }
        out.push_str("</tr>\n");
        out
    }
}
