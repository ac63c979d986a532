-- make_day
-- $1: the day
with named as (
    insert into rolled_day (day) values ($1)
)
insert into rollup_day (day, series, rate_set,
    requests, input_uncached_tokens, input_cache_read_tokens, input_cache_write_tokens,
    input_cache_write_1h_tokens, input_audio_tokens, output_text_tokens, output_reasoning_tokens,
    output_audio_tokens, images, failed_requests, unmeasured_requests, priced_requests,
    unpriced_requests, amount)
select $1, q.series, q.rate_set,
    sum(q.requests) as requests,
    sum(q.input_uncached_tokens) as input_uncached_tokens,
    sum(q.input_cache_read_tokens) as input_cache_read_tokens,
    sum(q.input_cache_write_tokens) as input_cache_write_tokens,
    sum(q.input_cache_write_1h_tokens) as input_cache_write_1h_tokens,
    sum(q.input_audio_tokens) as input_audio_tokens,
    sum(q.output_text_tokens) as output_text_tokens,
    sum(q.output_reasoning_tokens) as output_reasoning_tokens,
    sum(q.output_audio_tokens) as output_audio_tokens,
    sum(q.images) as images,
    sum(q.failed_requests) as failed_requests,
    sum(q.unmeasured_requests) as unmeasured_requests,
    sum(q.priced_requests) as priced_requests,
    sum(q.unpriced_requests) as unpriced_requests,
    case when sum(q.unpriced_requests) > 0 and sum(q.priced_requests) = 0 then null
        else coalesce(sum(q.amount), 0) end as amount
from rollup_quarter q
where q.quarter >= $1 and q.quarter < $1 + interval '24 hours'
group by q.series, q.rate_set
order by q.series, q.rate_set
-- Rows can be there already only of a process that was not told of named days.
on conflict (day, series, rate_set) do update set
    requests = excluded.requests,
    input_uncached_tokens = excluded.input_uncached_tokens,
    input_cache_read_tokens = excluded.input_cache_read_tokens,
    input_cache_write_tokens = excluded.input_cache_write_tokens,
    input_cache_write_1h_tokens = excluded.input_cache_write_1h_tokens,
    input_audio_tokens = excluded.input_audio_tokens,
    output_text_tokens = excluded.output_text_tokens,
    output_reasoning_tokens = excluded.output_reasoning_tokens,
    output_audio_tokens = excluded.output_audio_tokens,
    images = excluded.images,
    failed_requests = excluded.failed_requests,
    unmeasured_requests = excluded.unmeasured_requests,
    priced_requests = excluded.priced_requests,
    unpriced_requests = excluded.unpriced_requests,
    amount = excluded.amount
