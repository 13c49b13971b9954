//! A small reader of XML and of the HTML that reports write: it checks that tags nest, that attributes are quoted, that
//! references are known, and that no character stands where it may not.

/// Elements of HTML that have no end.
const VOID: [&str; 5] = ["meta", "input", "br", "wbr", "link"];

/// Elements of HTML whose content is no markup.
const RAW: [&str; 2] = ["style", "script"];

/// An element as it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) name: String,
    pub(crate) attributes: Vec<(String, String)>,
}

impl Element {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// Every element of a document, in order.
///
/// # Errors
/// What is not well formed, and what stands there.
pub(crate) fn elements(text: &str, html: bool) -> Result<Vec<Element>, String> {
    let mut elements = Vec::new();
    let mut open: Vec<String> = Vec::new();
    let mut rest = text;
    if let Some(c) = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
        return Err(format!("control character {:?}", c));
    }
    while let Some(at) = rest.find('<') {
        references(&rest[..at])?;
        if rest[..at].contains('>') && !html {
            return Err(format!("a lone '>' in {}", start(rest)));
        }
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('!').or(rest.strip_prefix('?')) {
            rest = after.split_once('>').ok_or("a declaration without end")?.1;
            continue;
        }
        let end = tag_end(rest).ok_or_else(|| format!("a tag without end: {}", start(rest)))?;
        let (tag, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            match open.pop() {
                Some(opened) if opened == name => continue,
                opened => return Err(format!("</{name}> ends {opened:?}")),
            }
        }
        let (tag, closed) = tag.strip_suffix('/').map_or((tag, false), |t| (t, true));
        let element = element(tag)?;
        let name = element.name.clone();
        elements.push(element);
        if html && RAW.contains(&name.as_str()) {
            rest = rest.split_once(&format!("</{name}>")).ok_or(format!("<{name}> without end"))?.1;
        } else if !(closed || html && VOID.contains(&name.as_str())) {
            open.push(name);
        }
    }
    references(rest)?;
    match open.is_empty() {
        true => Ok(elements),
        false => Err(format!("never ended: {open:?}")),
    }
}

fn start(text: &str) -> String {
    text.chars().take(60).collect()
}

/// Where a tag ends: the first '>' outside quotes.
fn tag_end(text: &str) -> Option<usize> {
    let mut quoted = false;
    text.char_indices().find_map(|(i, c)| {
        quoted ^= c == '"';
        (c == '>' && !quoted).then_some(i)
    })
}

fn element(tag: &str) -> Result<Element, String> {
    let (name, mut rest) = tag.split_once(char::is_whitespace).unwrap_or((tag, ""));
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
        return Err(format!("'{}' is no name", start(name)));
    }
    let mut attributes: Vec<(String, String)> = Vec::new();
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(Element { name: name.into(), attributes });
        }
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let key = &rest[..end];
        if key.is_empty() || key.contains(['"', '<', '\'']) || attributes.iter().any(|(k, _)| k == key) {
            return Err(format!("attribute '{}' of <{name}>", start(key)));
        }
        rest = &rest[end..];
        let Some(quoted) = rest.strip_prefix("=\"") else {
            attributes.push((key.into(), String::new()));
            continue;
        };
        let (value, after) = quoted.split_once('"').ok_or(format!("{key} of <{name}> has no end"))?;
        if value.contains('<') {
            return Err(format!("'<' in {key} of <{name}>"));
        }
        references(value)?;
        attributes.push((key.into(), value.into()));
        rest = after;
    }
}

fn references(text: &str) -> Result<(), String> {
    for after in text.split('&').skip(1) {
        let name = after.split_once(';').map_or("", |(name, _)| name);
        let known = ["amp", "lt", "gt", "quot", "#39", "#160"].contains(&name);
        if !known {
            return Err(format!("'&{}' is no reference", start(after)));
        }
    }
    Ok(())
}

#[test]
fn the_reader_refuses_what_is_not_well_formed() {
    let bad =
        ["<a>", "<a></b>", "<a b=c\"></a>", "<a>&</a>", "<a>&x;</a>", "<a b=\"<\"/>", "<a b=\"1\" b=\"2\"/>", "<a"];
    bad.iter().for_each(|text| assert!(elements(text, false).is_err(), "{text}"));
    assert!(elements("<a>\u{1}</a>", false).is_err());
    let good = "<?xml version=\"1.0\"?>\n<a b=\"1 &gt; &#39;0\"><c/>text &amp; more</a>\n";
    assert_eq!(elements(good, false).unwrap().len(), 2);
    assert_eq!(elements(good, false).unwrap()[0].get("b"), Some("1 &gt; &#39;0"));
    assert!(elements("<!doctype html><p>a<br>b</p><script>a<b</script>", true).is_ok());
}
