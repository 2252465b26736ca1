//! What a check of the input says of a patient, as a report shows it.

use serde::{Deserialize, Serialize};

use crate::html::escape;

/// The verdict, as a traffic light has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Light {
    /// The input is like what the model was trained on.
    Green,
    /// It differs in something that may matter.
    Yellow,
    /// It differs so much that the result means nothing.
    Red,
}

impl Light {
    /// The word beside the colour, which alone tells nothing to some; the same as on the screen and in files.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Green => "green",
            Self::Yellow => "yellow",
            Self::Red => "red",
        }
    }

    /// A sign of its own shape for each.
    fn sign(self) -> &'static str {
        match self {
            Self::Green => "\u{2713}",
            Self::Yellow => "!",
            Self::Red => "\u{2715}",
        }
    }

    pub(crate) fn html(self) -> String {
        format!(
            "<span class=\"light {}\"><span aria-hidden=\"true\">{}</span> {}</span>",
            self.word(),
            self.sign(),
            self.word()
        )
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How it is.
    pub light: Light,
    /// What was looked at: "voxel size".
    pub what: String,
    /// What was expected, and what was found.
    pub reason: String,
    /// What to do; empty where nothing is to be done.
    #[serde(default)]
    pub advice: String,
}

/// Whether a patient is like those that the model was trained on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// The worst of the findings, or what the check says as a whole.
    pub light: Light,
    /// What was looked at.
    #[serde(default)]
    pub findings: Vec<Finding>,
}

impl Check {
    pub(crate) fn html(&self) -> String {
        let mut out = format!(
            "<section aria-labelledby=\"check\"><h2 id=\"check\">Is this input like the training data?</h2>\
             <p>As a whole: {} {}</p>",
            self.light.html(),
            match self.light {
                Light::Green => "It is as in training.",
                Light::Yellow => "It is farther out than training patients are: look at it.",
                Light::Red => "The model wasn't trained on such input: results mean little.",
            }
        );
        if !self.findings.is_empty() {
            out.push_str("<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"Findings of the check\"><table><thead><tr>");
            for title in ["Verdict", "What", "Why", "What to do"] {
                out.push_str(&format!("<th scope=\"col\">{title}</th>"));
            }
            out.push_str("</tr></thead><tbody>");
            for finding in &self.findings {
                out.push_str(&format!(
                    "<tr><td>{}</td><th scope=\"row\">{}</th><td>{}</td><td>{}</td></tr>",
                    finding.light.html(),
                    escape(&finding.what),
                    escape(&finding.reason),
                    escape(&finding.advice)
                ));
            }
            out.push_str("</tbody></table></div>");
        }
        out.push_str("</section>");
        out
    }
}
