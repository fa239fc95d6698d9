//! A batch that is granted: registered in one commit, and announced page by page.

use noshi_jobs::{
    Problem, Request,
    bulk_grants::{Announce, Register},
    email,
    gift_issuance::{self},
    point_grant,
};
use sqlx::{Row, types::Json};

use super::{PAGE, kept_under};
use crate::{
    basics::chaos::{Bug, planted},
    db::{PgConnection, enqueue, take_time},
};

/// Registers every row of the batch as a grant, or none; the database decides.
pub async fn register(connection: &mut PgConnection, batch: i64) -> Result<Register, sqlx::Error> {
    const REGISTER: &str = "select code, detail from noshi.register_batch($1)";
    take_time(connection).await?;
    let Some(row) = sqlx::query(REGISTER).bind(batch).fetch_optional(connection).await? else {
        return Ok(Register::Registered);
    };
    let code: String = row.try_get("code")?;
    if code == "paused" {
        return Ok(Register::Paused);
    }
    Ok(Register::Refused(Problem::from_code(&code).unwrap_or(Problem::BatchNotApproved), row.try_get("detail")?))
}

const NEXT_PAGE: &str = "select b.kind = 'points' as of_points, r.row_no, r.key, r.args, r.mailed, b.mails, b.issues, b.id from noshi.batch b
join noshi.batch_row r on r.batch = b.id and r.row_no > $2 where b.id = $1 order by r.row_no limit $3";

/// The follow-up jobs of one page of rows: their mails, and their issuances where the batch says so; or their points.
pub async fn announce(connection: &mut PgConnection, batch: i64, after: i32) -> Result<Announce, sqlx::Error> {
    match stands(connection, batch).await?.as_deref() {
        None => {}
        Some("cancelled") => return Ok(Announce::NothingLeft),
        Some(_) => return Ok(Announce::Paused),
    }
    take_time(connection).await?;
    let again = told_by_cancelled(connection, batch, after).await?;
    let page = sqlx::query(NEXT_PAGE).bind(batch).bind(after).bind(PAGE).fetch_all(&mut *connection).await?;
    let mut requests = vec![];
    let mut last = None;
    for row in &page {
        let row_no: i32 = row.try_get("row_no")?;
        last = Some(row_no);
        if row.try_get("of_points")? {
            let args: Json<point_grant::Args> = row.try_get("args")?;
            requests.push((row_no, Request::PointGrant(args.0)));
            continue;
        }
        let args: Json<gift_issuance::Args> = row.try_get("args")?;
        if row.try_get("mails")? && row.try_get("mailed")? {
            let mut mail = announcement(batch, row_no, &args);
            mail.again_in = again.contains(&row_no).then_some(batch);
            requests.push((row_no, Request::Email(mail)));
            if planted(Bug::DoubleCountedBatch) {
                let mut twice = announcement(batch, row_no, &args);
                twice.reference += "/again";
                requests.push((row_no, Request::Email(twice)));
            }
        }
        if row.try_get("issues")? {
            requests.push((row_no, Request::GiftIssuance(args.0)));
        }
    }
    let Some(last) = last else { return Ok(Announce::NothingLeft) };
    match enqueue::rows_of_batch(connection, batch, &requests).await? {
        true => Ok(Announce::Upto(last)),
        false => Ok(Announce::Conflict),
    }
}

/// The mail about one grant. Its recipient is sealed under the batch and row.
fn announcement(batch: i64, row_no: i32, args: &gift_issuance::Args) -> email::Args {
    let mut params = std::collections::BTreeMap::new();
    params.insert("category".to_owned(), args.category.clone());
    params.insert("value".to_owned(), args.value.to_string());
    email::Args {
        template: email::Template::GiftGranted,
        reference: args.grant.clone(),
        recipient: kept_under(batch, row_no),
        params,
        again_in: None,
    }
}

// The same whenever it is asked: what was cancelled stays so, and an id is taken for ever.
const TOLD_BY_CANCELLED: &str = "select r.row_no from (
    select r.row_no, r.key, r.mailed from noshi.batch o join noshi.batch_row r on r.batch = o.id and r.row_no > $2
    where o.id = $1 and o.mails order by r.row_no limit $3) r
cross join lateral (select coalesce(
    (select j.batch from noshi.job j where j.kind = 'email' and j.key = $4 || r.key),
    (select t.batch from noshi.tombstone t where t.kind = 'email' and t.key = $4 || r.key)) as batch) m
join noshi.batch b on b.id = m.batch and b.cancelled_at is not null
where r.mailed and b.id <> $1";

/// Rows of the next page whose grant an earlier batch had announced, or was to, before it was cancelled: the mail of this one is another.
async fn told_by_cancelled(connection: &mut PgConnection, batch: i64, after: i32) -> Result<Vec<i32>, sqlx::Error> {
    let template = email::Template::GiftGranted;
    let before_the_grant = format!("{}:{}:", template.name(), template.version());
    let rows = sqlx::query_scalar(TOLD_BY_CANCELLED).bind(batch).bind(after).bind(PAGE).bind(before_the_grant);
    rows.fetch_all(connection).await
}

/// Why no more rows may be announced: `paused` or `cancelled`. Held until the transaction ends, so that none come after it.
async fn stands(connection: &mut PgConnection, batch: i64) -> Result<Option<String>, sqlx::Error> {
    const STANDS: &str = "select noshi.batch_stands($1)";
    sqlx::query_scalar(STANDS).bind(batch).fetch_one(connection).await
}
