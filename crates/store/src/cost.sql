-- cost
-- $1: all bounds are midnights of UTC; $2, $3: the range, half-open; $4: the bounds, ascending;
-- $5: all tenants; $6: the tenant; $7 to $14: which dimensions; $15: the most groups
with stretch as (
    -- Between the named days, whose rows by day are whole.
    select greatest(starts, $2) as starts, least(ends, $3) as ends
    from (
        select day + interval '24 hours' as starts,
            lead(day, 1, 'infinity') over (order by day) as ends
        from (
            select '-infinity'::timestamptz as day
            union all
            select day from rolled_day where day >= $2 and day < $3
        ) named
    ) unnamed
    where $1 and starts < ends
), recorded as (
    select series, rate_set, day as at, requests, input_uncached_tokens, input_cache_read_tokens,
        input_cache_write_tokens, input_cache_write_1h_tokens, input_audio_tokens,
        output_text_tokens, output_reasoning_tokens, output_audio_tokens, images, failed_requests,
        unmeasured_requests, priced_requests, unpriced_requests, amount
    from rollup_day
    where $1 and day >= $2 and day < $3 and day in (select day from rolled_day)
    union all
    select q.*
    from stretch t
    cross join lateral (
        select series, rate_set, quarter, requests, input_uncached_tokens, input_cache_read_tokens,
            input_cache_write_tokens, input_cache_write_1h_tokens, input_audio_tokens,
            output_text_tokens, output_reasoning_tokens, output_audio_tokens, images,
            failed_requests, unmeasured_requests, priced_requests, unpriced_requests, amount
        from rollup_quarter
        where quarter >= t.starts and quarter < t.ends
        offset 0
    ) q
    union all
    select series, rate_set, quarter, requests, input_uncached_tokens, input_cache_read_tokens,
        input_cache_write_tokens, input_cache_write_1h_tokens, input_audio_tokens,
        output_text_tokens, output_reasoning_tokens, output_audio_tokens, images, failed_requests,
        unmeasured_requests, priced_requests, unpriced_requests, amount
    from rollup_quarter where not $1 and quarter >= $2 and quarter < $3
    union all
    select p.*
    from chain c
    left join rollup_mark m on m.chain = c.id
    -- Postgres takes a third of the journal to lie after a mark, and would read all of it. The bound
    -- above makes that one in 200, and `offset 0` keeps the mark within the index's condition.
    cross join lateral (
        select series, rate_set, quarter, requests, input_uncached_tokens, input_cache_read_tokens,
            input_cache_write_tokens, input_cache_write_1h_tokens, input_audio_tokens,
            output_text_tokens, output_reasoning_tokens, output_audio_tokens, images,
            failed_requests, unmeasured_requests, priced_requests, unpriced_requests, amount
        from posting
        where chain = c.id and part > coalesce(m.part, 0) and part <= 9223372036854775807
            and quarter >= $2 and quarter < $3
        offset 0
    ) p
), summed as (
    select series, rate_set, width_bucket(at, $4::timestamptz[]) as bucket,
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
        sum(amount) as amount
    from recorded
    group by series, rate_set, bucket
)
select u.bucket as "bucket!",
    case when $7 then coalesce(s.tenant, '') else '' end as "tenant!",
    case when $8 then coalesce(s.app, '') else '' end as "app!",
    case when $9 then coalesce(s.user_id, '') else '' end as "user_id!",
    case when $10 then coalesce(s.session, '') else '' end as "session!",
    case when $11 then coalesce(s.route, '') else '' end as "route!",
    case when $12 then coalesce(s.provider, '') else '' end as "provider!",
    case when $13 then coalesce(s.model, '') else '' end as "model!",
    case when $14 then coalesce(r.priced_model, '') else '' end as "priced_model!",
    array[sum(u.requests), sum(u.input_uncached_tokens), sum(u.input_cache_read_tokens),
        sum(u.input_cache_write_tokens), sum(u.input_cache_write_1h_tokens),
        sum(u.input_audio_tokens), sum(u.output_text_tokens), sum(u.output_reasoning_tokens),
        sum(u.output_audio_tokens), sum(u.images)]::text[] as "quantities!",
    sum(u.failed_requests)::text as "failed_requests!",
    sum(u.unmeasured_requests)::text as "unmeasured_requests!",
    sum(u.priced_requests)::text as "priced_requests!",
    sum(u.unpriced_requests)::text as "unpriced_requests!",
    sum(u.amount)::text as amount
from summed u
-- Usage whose series or rate set was taken away stays in the operator's sums, without names.
left join series s on s.key = u.series
left join rate_set r on r.key = u.rate_set
where $5 or s.tenant = $6
group by 1, 2, 3, 4, 5, 6, 7, 8, 9
limit $15
