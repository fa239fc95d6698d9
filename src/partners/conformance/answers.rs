//! The table of answers at the top of each gift partner's file: every answer is given by a listener, byte by byte, and read by the adapter.
//! Whose fact an answer is stands here, as a person judges it; what comes of it is what the code does, and the two must agree.

use noshi_jobs::{
    gift_issuance::{Cancel, Inquiry, Issue},
    machine::{Closing, Tls},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{Files, args, partner, trade};
use crate::{
    db::queue::slot::Notice,
    partners::{
        Gate,
        scripted::{Act, Scripted},
        whose::{self, Whose},
    },
};

const PAGE: &str = "<html><body>CNRY</body></html>";

/// Answers that mean the same.
pub struct Row {
    pub answer: String,
    acts: Vec<Act>,
    pub whose: Whose,
}

impl Row {
    pub fn new(answer: &str, whose: Whose, acts: impl Into<Vec<Act>>) -> Row {
        Row { answer: answer.to_owned(), acts: acts.into(), whose }
    }

    /// One answer of the partner's own.
    pub fn said(status: u16, body: &str, whose: Whose) -> Row {
        let shown = body.replace('|', "/");
        Row::new(&format!("{status} {shown}"), whose, [Act::answer(&format!("{status} Status"), body)])
    }
}

/// What each row comes to, in one word or a few, and what it closes.
pub type Outcome = (String, Option<Closing>);

fn pages(statuses: &[u16], more: &str) -> Vec<Act> {
    let page = |status: &u16| [PAGE, ""].map(|body| Act::answer(&format!("{status} Status{more}"), body));
    statuses.iter().flat_map(page).collect()
}

/// What comes from the way there, or from what answers in the partner's place: it says nothing of the effect, and holds nobody else up.
/// Who says "too many" is heeded for all calls, since the next one meets it too.
pub fn of_the_way() -> Vec<Row> {
    use crate::partners::whose::Whose::{Account, Network};
    let cut = |text: &str| Act::Say(format!("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{text}").into_bytes());
    let soon = "\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:50:20 GMT";
    let client = [400, 401, 402, 403, 404, 405, 407, 408, 409, 413, 414, 418, 421, 422, 426, 431, 451, 499];
    vec![
        Row::new("200, 201 or 202 with a page or without a body", Network, pages(&[200, 201, 202], "")),
        Row::new("200 that ends early", Network, [cut(""), cut("{\"status\":")]),
        Row::new(
            "300 to 308, to another host: it is not followed",
            Network,
            pages(&[300, 301, 302, 303, 304, 307, 308], "\r\nLocation: http://127.0.0.1:9/"),
        ),
        Row::new(
            "400 to 499 but 429, known or not, with a page or without a body, such as 401, 403, 407, 413, 421, 426, 431, 451",
            Network,
            pages(&client, ""),
        ),
        Row::new("429 with a page", Account, pages(&[429], "")),
        Row::new("429 with a page, Retry-After: 17", Account, pages(&[429], "\r\nRetry-After: 17")),
        Row::new("429 with a page, Retry-After: a date 43 s after its own", Account, pages(&[429], soon)),
        Row::new("429 with a page, Retry-After: soon, -5 or 0", Account, {
            let senseless = ["soon", "-5", "0"].map(|wait| pages(&[429], &format!("\r\nRetry-After: {wait}")));
            senseless.concat()
        }),
        Row::new(
            "429 with a page, Retry-After: 99999999999999999999",
            Account,
            pages(&[429], "\r\nRetry-After: 99999999999999999999"),
        ),
        Row::new("500 to 599 with a page or without a body", Network, pages(&[500, 501, 502, 503, 504, 511, 599], "")),
        Row::new("503 with Retry-After: 17", Account, pages(&[503], "\r\nRetry-After: 17")),
        Row::new(
            "503 with Retry-After: 99999999999999999999",
            Account,
            pages(&[503], "\r\nRetry-After: 99999999999999999999"),
        ),
        Row::new("503 with Retry-After: soon, -5 or 0; 502 or 504 with any", Network, {
            let senseless = ["soon", "-5", "0"].map(|wait| pages(&[503], &format!("\r\nRetry-After: {wait}")));
            [senseless.concat(), pages(&[502, 504], "\r\nRetry-After: 17")].concat()
        }),
        Row::new("no HTTP at all", Network, [Act::Say(b"220 mail.example.jp ESMTP\r\n".to_vec())]),
        Row::new("cut after the request", Network, [Act::Reset, Act::Say(vec![])]),
        Row::new("none in time", Network, [Act::Hang(vec![])]),
    ]
}

/// What one row comes to, whichever of its bytes say it.
async fn answered(file: &str, asked: &str, row: &Row, read: &mut impl AsyncFnMut(&str, String) -> Outcome) -> Outcome {
    let mut outcome: Option<Outcome> = None;
    for act in &row.acts {
        let server = Scripted::start([act.clone()]).await;
        let found = read(asked, server.url.clone()).await;
        let what = format!("{file}: {asked}: {}", row.answer);
        assert_eq!(server.requests().len(), 1, "{what}: one request, whatever comes back");
        assert_eq!(*outcome.get_or_insert_with(|| found.clone()), found, "{what}: {act:?}");
    }
    outcome.expect("an answer")
}

/// Draws the rows as the table of an adapter's file. `read` makes one call to a server that gives this answer. Of the first of what is asked
/// each row is shown; of the others, which the partner answers in the same words, those together that come to the same.
pub async fn draw(file: &str, asked: &[&str], rows: Vec<Row>, mut read: impl AsyncFnMut(&str, String) -> Outcome) {
    let (first, others) = asked.split_first().expect("something is asked");
    let mut table = vec![];
    for row in &rows {
        let (said, closing) = answered(file, first, row, &mut read).await;
        assert_agrees(row.whose, closing, &format!("{file}: {}", row.answer));
        table.push([(*first).to_owned(), row.answer.clone(), row.whose.name().to_owned(), shown(&said, closing)]);
    }
    for asked in others {
        let mut together: Vec<[String; 4]> = vec![];
        for row in &rows {
            let (said, closing) = answered(file, asked, row, &mut read).await;
            let what = format!("{file}: {asked}: {}", row.answer);
            // What an order is refused for may say nothing to a question; what closes a lane closes it whatever was asked.
            let whose = match (closing, row.whose) {
                (None, Whose::Account | Whose::Process) => Whose::Network,
                (_, whose) => whose,
            };
            assert_agrees(whose, closing, &what);
            let (whose, said) = (whose.name().to_owned(), shown(&said, closing));
            match together.iter_mut().find(|known| known[2] == whose && known[3] == said) {
                Some(known) => known[1] += &format!("; {}", row.answer),
                None => together.push([(*asked).to_owned(), row.answer.clone(), whose, said]),
            }
        }
        table.extend(together);
    }
    for (answer, url, whose) in [
        ("nobody listens", "http://127.0.0.1:1".to_owned(), Whose::Network),
        ("plain HTTP where TLS is to be", plain_where_tls_is_to_be().await, Whose::Account),
    ] {
        let (said, closing) = read(first, url).await;
        assert_agrees(whose, closing, &format!("{file}: {answer}"));
        assert_eq!(said, "retry", "{file}: {answer}: nothing was sent");
        table.push(["connecting".to_owned(), answer.to_owned(), whose.name().to_owned(), shown(&said, closing)]);
    }
    whose::assert_drawn(file, &table);
}

/// Only an account's fact holds others up, and a process's holds up that process.
fn assert_agrees(whose: Whose, closing: Option<Closing>, what: &str) {
    let owner = match closing {
        Some(Closing::Process(_)) => Some(Whose::Process),
        Some(_) => Some(Whose::Account),
        None => None,
    };
    match owner {
        Some(owner) => assert_eq!(owner, whose, "{what}: {closing:?}"),
        None => assert!(!matches!(whose, Whose::Account | Whose::Process), "{what} closes nothing"),
    }
}

fn shown(said: &str, closing: Option<Closing>) -> String {
    let closes = closing.map(|closing| match closing {
        Closing::Throttled(wait) => format!("lane throttled for {} s", wait.as_secs()),
        Closing::Tls(trouble) => format!("lane closed: {}", Closing::Tls(trouble).code().unwrap_or_default()),
        other @ (Closing::Funds | Closing::Credentials | Closing::Sender | Closing::Process(_)) => {
            other.words().to_owned()
        }
    });
    closes.map_or_else(|| said.to_owned(), |closes| format!("{said}; {closes}"))
}

/// As a server answers that was never told about TLS.
async fn plain_where_tls_is_to_be() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 16 * 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
            let _ = stream.shutdown().await;
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    url
}

pub fn told(told: &Notice) -> Option<Closing> {
    *told.lock().unwrap()
}

fn means(issue: &Issue) -> Outcome {
    match issue {
        Issue::Issued(_) => ("issued".to_owned(), None),
        Issue::Pending => ("accepted, not ready".to_owned(), None),
        Issue::Resend => ("once more under the same id".to_owned(), None),
        Issue::Refused(why) => (format!("refused ({why})"), None),
        Issue::Throttled(wait) => ("retry".to_owned(), Some(Closing::Throttled(*wait))),
        Issue::NotSent => ("retry".to_owned(), None),
        Issue::Unknown => ("in doubt".to_owned(), None),
        Issue::Dead => ("void: a dead card".to_owned(), None),
        Issue::Conflict => ("in doubt, parked: the id is another gift's".to_owned(), None),
        Issue::OutOfFunds => ("retry".to_owned(), Some(Closing::Funds)),
        Issue::BadCredentials => ("retry".to_owned(), Some(Closing::Credentials)),
    }
}

fn inquiry_means(inquiry: &Inquiry) -> Outcome {
    match inquiry {
        Inquiry::Live(_) => ("issued".to_owned(), None),
        Inquiry::Pending => ("accepted, not ready".to_owned(), None),
        Inquiry::Known(_) => ("known; its details are another question".to_owned(), None),
        Inquiry::Failed(why) => (format!("given up by the partner ({why})"), None),
        Inquiry::NotFound => ("not found".to_owned(), None),
        Inquiry::Dead => ("void".to_owned(), None),
        Inquiry::Conflict => ("parked: ours, and of another value".to_owned(), None),
        Inquiry::Throttled(wait) => ("asked again".to_owned(), Some(Closing::Throttled(*wait))),
        Inquiry::NoAnswer => ("asked again".to_owned(), None),
        Inquiry::BadCredentials => ("asked again".to_owned(), Some(Closing::Credentials)),
    }
}

fn cancel_means(cancel: &Cancel) -> Outcome {
    match cancel {
        Cancel::Cancelled => ("void".to_owned(), None),
        Cancel::Accepted => ("taken, and waited for".to_owned(), None),
        Cancel::Refused => ("refused: a person decides".to_owned(), None),
        Cancel::NotFound => ("not found".to_owned(), None),
        Cancel::Throttled(wait) => ("retry".to_owned(), Some(Closing::Throttled(*wait))),
        Cancel::NotSent => ("retry".to_owned(), None),
        Cancel::Unknown => ("retry, under the same id".to_owned(), None),
        Cancel::BadCredentials => ("retry".to_owned(), Some(Closing::Credentials)),
    }
}

/// One partner's own answers, then everybody's.
pub async fn draw_issue(name: &str, file: &str, own: Vec<Row>) {
    let files = Files::new();
    let partner = partner(name);
    let trade_id = trade(files.open(partner, "http://127.0.0.1:1").as_ref(), "g1").id;
    let (status, good) = (partner.fixture.issued)(&trade_id);
    let mut rows = vec![Row::new(
        &format!("{} and a whole card of this trade", status.as_u16()),
        Whose::Message,
        [Act::answer(&format!("{} Status", status.as_u16()), &good.to_string())],
    )];
    rows.extend(own);
    rows.extend(of_the_way());
    let contract = files.open(partner, "http://127.0.0.1:1").terms().contract.clone();
    let questions = [("issue", true), ("inquire", contract.inquiry), ("cancel", contract.cancel)];
    let asked: Vec<&str> = questions.into_iter().filter_map(|(asked, can)| can.then_some(asked)).collect();
    draw(file, &asked, rows, async |asked, url| {
        let provider = files.open(partner, &url);
        let noticed = Notice::default();
        let gate = Gate::open().telling(&noticed);
        let (args, trade) = (args("g1"), trade(provider.as_ref(), "g1"));
        let (said, closing) = match asked {
            "inquire" => inquiry_means(&provider.inquire(&args, &trade, Some("RA1"), &gate).await),
            "cancel" => cancel_means(&provider.cancel(&args, &trade, Some("c1"), &gate).await),
            _ => means(&provider.issue(&args, &trade, &gate).await),
        };
        (said, closing.or(told(&noticed)))
    })
    .await;
}

/// A lane that nobody can speak privately over is closed by a word of its own.
#[test]
fn each_trouble_of_tls_has_its_own_word() {
    let all = [Tls::UnknownCa, Tls::Expired, Tls::WrongHost, Tls::OldVersion, Tls::Failed];
    let mut words: Vec<_> = all.into_iter().map(|trouble| shown("retry", Some(Closing::Tls(trouble)))).collect();
    words.sort();
    words.dedup();
    assert_eq!(words.len(), all.len());
}
