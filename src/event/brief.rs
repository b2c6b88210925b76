//! An event in a line of plain text, for summaries.

use super::{Body, clip};

/// A line for a person is cut there.
const LINE_BYTES_MAX: usize = 200;

impl Body {
    /// What happened, on one line without control characters; empty for what says nothing to a
    /// person (usage, unknown lines).
    pub fn brief(&self) -> String {
        let text = match self {
            Body::SessionStarted { model, .. } => {
                format!("started {}", model.as_deref().unwrap_or_default())
            }
            Body::Text { text, .. } => format!("says: {text}"),
            Body::Thinking { text, .. } => format!("thinks: {text}"),
            Body::ToolCall { tool, input, .. } => format!("calls {tool} {input}"),
            Body::ToolResult {
                is_error, output, ..
            } => {
                let word = if *is_error { "failed" } else { "gave" };
                format!("  {word}: {output}")
            }
            Body::Retrying { message, .. } => format!("retries: {message}"),
            Body::Limited { .. } => "met a usage limit".to_owned(),
            Body::PermissionDenied { tool, .. } => format!("was denied {tool}"),
            Body::Error { message, .. } => format!("error: {message}"),
            Body::Finished { good, message } => {
                let word = if *good { "finished" } else { "gave up" };
                format!("{word}: {message}")
            }
            Body::Usage(_) | Body::Other { .. } => String::new(),
        };
        let (text, cut) = clip(text.trim_end(), LINE_BYTES_MAX);
        let mut line: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        if cut {
            line.push('…');
        }
        line
    }
}
