-- move_parts
-- $1, $2, $3: of each chain, the parts after one up to another. Amounts are compared with quantities
-- times rates in sum, by what is rolled up together: a product of sums costs a tenth of a sum of
-- products, and two errors that cancel each other there change no report (`verify` finds them).
with fresh as materialized (
    select quarter, series, rate_set,
        sum(requests) as requests,
        sum(input_uncached_tokens) as input_uncached_tokens,
        sum(input_cache_read_tokens) as input_cache_read_tokens,
        sum(input_cache_write_tokens) as input_cache_write_tokens,
        sum(input_cache_write_1h_tokens) as input_cache_write_1h_tokens,
        sum(input_audio_tokens) as input_audio_tokens,
        sum(output_text_tokens) as output_text_tokens,
        sum(output_reasoning_tokens) as output_reasoning_tokens,
        sum(output_audio_tokens) as output_audio_tokens,
        sum(images) as images,
        sum(failed_requests) as failed_requests,
        sum(unmeasured_requests) as unmeasured_requests,
        sum(priced_requests) as priced_requests,
        sum(unpriced_requests) as unpriced_requests,
        case when sum(unpriced_requests) > 0 and sum(priced_requests) = 0 then null
            else coalesce(sum(amount), 0) end as amount
    from unnest($1::int[], $2::bigint[], $3::bigint[]) as t (chain, after, up_to)
    -- Not flattened, so that each chain's parts are found by the index, not by reading the journal.
    cross join lateral (
        select * from posting where chain = t.chain and part > t.after and part <= t.up_to offset 0
    ) p
    -- By series first: a batch has few quarters, and the sort compares what differs.
    group by series, rate_set, quarter
), differing as (
    select count(*) as differing
    from fresh f
    left join series s on s.key = f.series
    left join rate_set r on r.key = f.rate_set
    where s.key is null or r.key is null or coalesce(f.amount, 0)
        <> coalesce(f.requests * r.requests, 0)
            + coalesce(f.input_uncached_tokens * r.input_uncached_tokens, 0)
            + coalesce(f.input_cache_read_tokens * r.input_cache_read_tokens, 0)
            + coalesce(f.input_cache_write_tokens * r.input_cache_write_tokens, 0)
            + coalesce(f.input_cache_write_1h_tokens * r.input_cache_write_1h_tokens, 0)
            + coalesce(f.input_audio_tokens * r.input_audio_tokens, 0)
            + coalesce(f.output_text_tokens * r.output_text_tokens, 0)
            + coalesce(f.output_reasoning_tokens * r.output_reasoning_tokens, 0)
            + coalesce(f.output_audio_tokens * r.output_audio_tokens, 0)
            + coalesce(f.images * r.images, 0)
), quarters as (
    insert into rollup_quarter as r (quarter, series, rate_set,
        requests, input_uncached_tokens, input_cache_read_tokens, input_cache_write_tokens,
        input_cache_write_1h_tokens, input_audio_tokens, output_text_tokens,
        output_reasoning_tokens, output_audio_tokens, images, failed_requests, unmeasured_requests,
        priced_requests, unpriced_requests, amount)
    select quarter, series, rate_set,
        requests, input_uncached_tokens, input_cache_read_tokens, input_cache_write_tokens,
        input_cache_write_1h_tokens, input_audio_tokens, output_text_tokens,
        output_reasoning_tokens, output_audio_tokens, images, failed_requests, unmeasured_requests,
        priced_requests, unpriced_requests, amount
    from fresh
    order by quarter, series, rate_set
    on conflict (quarter, series, rate_set) do update set
        requests = r.requests + excluded.requests,
        input_uncached_tokens = r.input_uncached_tokens + excluded.input_uncached_tokens,
        input_cache_read_tokens = r.input_cache_read_tokens + excluded.input_cache_read_tokens,
        input_cache_write_tokens = r.input_cache_write_tokens + excluded.input_cache_write_tokens,
        input_cache_write_1h_tokens = r.input_cache_write_1h_tokens + excluded.input_cache_write_1h_tokens,
        input_audio_tokens = r.input_audio_tokens + excluded.input_audio_tokens,
        output_text_tokens = r.output_text_tokens + excluded.output_text_tokens,
        output_reasoning_tokens = r.output_reasoning_tokens + excluded.output_reasoning_tokens,
        output_audio_tokens = r.output_audio_tokens + excluded.output_audio_tokens,
        images = r.images + excluded.images,
        failed_requests = r.failed_requests + excluded.failed_requests,
        unmeasured_requests = r.unmeasured_requests + excluded.unmeasured_requests,
        priced_requests = r.priced_requests + excluded.priced_requests,
        unpriced_requests = r.unpriced_requests + excluded.unpriced_requests,
        amount = case
            when r.unpriced_requests + excluded.unpriced_requests > 0
                and r.priced_requests + excluded.priced_requests = 0 then null
            else coalesce(r.amount, 0) + coalesce(excluded.amount, 0) end
), days as (
    insert into rollup_day as r (day, series, rate_set,
        requests, input_uncached_tokens, input_cache_read_tokens, input_cache_write_tokens,
        input_cache_write_1h_tokens, input_audio_tokens, output_text_tokens,
        output_reasoning_tokens, output_audio_tokens, images, failed_requests, unmeasured_requests,
        priced_requests, unpriced_requests, amount)
    select date_trunc('day', quarter, 'UTC') as day, series, rate_set,
        sum(requests) as requests,
        sum(input_uncached_tokens) as input_uncached_tokens,
        sum(input_cache_read_tokens) as input_cache_read_tokens,
        sum(input_cache_write_tokens) as input_cache_write_tokens,
        sum(input_cache_write_1h_tokens) as input_cache_write_1h_tokens,
        sum(input_audio_tokens) as input_audio_tokens,
        sum(output_text_tokens) as output_text_tokens,
        sum(output_reasoning_tokens) as output_reasoning_tokens,
        sum(output_audio_tokens) as output_audio_tokens,
        sum(images) as images,
        sum(failed_requests) as failed_requests,
        sum(unmeasured_requests) as unmeasured_requests,
        sum(priced_requests) as priced_requests,
        sum(unpriced_requests) as unpriced_requests,
        case when sum(unpriced_requests) > 0 and sum(priced_requests) = 0 then null
            else coalesce(sum(amount), 0) end as amount
    from fresh
    -- What comes late: the rows of all other days are made when the day is over.
    where date_trunc('day', quarter, 'UTC') in (select day from rolled_day)
    group by day, series, rate_set
    order by day, series, rate_set
    on conflict (day, series, rate_set) do update set
        requests = r.requests + excluded.requests,
        input_uncached_tokens = r.input_uncached_tokens + excluded.input_uncached_tokens,
        input_cache_read_tokens = r.input_cache_read_tokens + excluded.input_cache_read_tokens,
        input_cache_write_tokens = r.input_cache_write_tokens + excluded.input_cache_write_tokens,
        input_cache_write_1h_tokens = r.input_cache_write_1h_tokens + excluded.input_cache_write_1h_tokens,
        input_audio_tokens = r.input_audio_tokens + excluded.input_audio_tokens,
        output_text_tokens = r.output_text_tokens + excluded.output_text_tokens,
        output_reasoning_tokens = r.output_reasoning_tokens + excluded.output_reasoning_tokens,
        output_audio_tokens = r.output_audio_tokens + excluded.output_audio_tokens,
        images = r.images + excluded.images,
        failed_requests = r.failed_requests + excluded.failed_requests,
        unmeasured_requests = r.unmeasured_requests + excluded.unmeasured_requests,
        priced_requests = r.priced_requests + excluded.priced_requests,
        unpriced_requests = r.unpriced_requests + excluded.unpriced_requests,
        amount = case
            when r.unpriced_requests + excluded.unpriced_requests > 0
                and r.priced_requests + excluded.priced_requests = 0 then null
            else coalesce(r.amount, 0) + coalesce(excluded.amount, 0) end
), marks as (
    insert into rollup_mark as m (chain, part)
    select chain, up_to from unnest($1::int[], $3::bigint[]) as t (chain, up_to)
    order by chain
    on conflict (chain) do update set part = excluded.part where m.part < excluded.part
    returning chain
)
select (select count(*) from marks) as "moved!", (select differing from differing) as "differing!"
