"""The client that openapi-python-client generates, against a real interface: what it sends is taken, and what comes back it can read."""

import io
import os
import sys

from noshi_client import AuthenticatedClient
from noshi_client.api.batches import get_batches_by_batch, get_batches_by_batch_report, post_batches
from noshi_client.api.jobs import get_jobs, get_jobs_by_kind_by_id, post_jobs
from noshi_client.models import GetJobsByKindByIdKind, NewJob, NewJobArgs, NewJobKind
from noshi_client.types import File

client = AuthenticatedClient(base_url=sys.argv[1], token=os.environ["TOKEN"], raise_on_unexpected_status=True)

gift = {"grant": "order/42", "user": "u1", "category": "digital", "value": {"amount": 500, "currency": "JPY"}}
new = NewJob(kind=NewJobKind.GIFT_ISSUANCE, id="order/42", args=NewJobArgs.from_dict(gift))
made = post_jobs.sync(client=client, body=new)
assert made.id == "order/42" and post_jobs.sync(client=client, body=new).job == made.job, made
other = NewJob(kind=NewJobKind.GIFT_ISSUANCE, id="order/42", args=NewJobArgs.from_dict(gift | {"user": "u2"}))
refused = post_jobs.sync_detailed(client=client, body=other)
assert refused.status_code == 409 and refused.parsed.detail, refused
job = get_jobs_by_kind_by_id.sync(GetJobsByKindByIdKind.GIFT_ISSUANCE, "order/42", client=client)
assert (job.job, job.in_doubt) == (made.job, False) and job.args.additional_properties["user"] == "u1", job
assert [found.job for found in get_jobs.sync(client=client).jobs] == [made.job]

rows = "grant_id,user_id,name,email,category,amount,currency\ng1,u1,山田,a@example.jp,digital,500,JPY\n"
batch = post_batches.sync(client=client, body=File(payload=io.BytesIO(rows.encode())), file="grants.csv")
assert (batch.rows, batch.is_new) == (1, True), batch
assert get_batches_by_batch.sync(batch.batch, client=client).batch == batch.batch
report = get_batches_by_batch_report.sync_detailed(batch.batch, client=client)
assert report.status_code == 200 and b"g1" in report.content, report
faulty = post_batches.sync_detailed(client=client, body=File(payload=io.BytesIO(rows.replace("500", "x").encode())))
assert faulty.status_code == 422 and faulty.parsed.faults[0].line == 2, faulty
print("well")
