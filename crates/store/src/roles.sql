-- Roles of the services and what each may do. Run after the migrations, each time, as their owner;
-- roles belong to the whole cluster, so other databases may be at the same at this moment.

select pg_advisory_xact_lock(hashtext('tollbook.roles'));

do $$
declare
    wanted text;
    bypass text;
begin
    foreach wanted in array array['tollbook_ingest', 'tollbook_enforcer', 'tollbook_reports'] loop
        -- Ingest writes for all tenants.
        bypass := case when wanted = 'tollbook_ingest' then 'bypassrls' else 'nobypassrls' end;
        if not exists (select from pg_roles where rolname = wanted) then
            begin
                execute format('create role %I nologin %s', wanted, bypass);
            exception
                when duplicate_object or unique_violation then null;
                when insufficient_privilege then
                    begin
                        execute format('create role %I nologin', wanted);
                    exception
                        when duplicate_object or unique_violation or insufficient_privilege then null;
                    end;
            end;
        elsif wanted = 'tollbook_ingest'
            and not (select rolbypassrls from pg_roles where rolname = wanted) then
            begin
                execute format('alter role %I bypassrls', wanted);
            exception when insufficient_privilege then null;
            end;
        end if;

        if exists (select from pg_roles where rolname = wanted)
            and not pg_has_role(session_user, wanted, 'member') then
            begin
                execute format('grant %I to %I', wanted, session_user);
            exception when insufficient_privilege then null;
            end;
        end if;
    end loop;
end $$;

-- What each may do, from nothing, so that a right that was dropped here is taken away there.
do $$
declare
    wanted text;
begin
    foreach wanted in array array['tollbook_ingest', 'tollbook_enforcer', 'tollbook_reports'] loop
        if exists (select from pg_roles where rolname = wanted) then
            execute format('revoke all on all tables in schema public from %I', wanted);
            execute format('revoke all on all functions in schema public from %I', wanted);
            execute format('grant usage on schema public to %I', wanted);
        end if;
    end loop;

    if exists (select from pg_roles where rolname = 'tollbook_ingest') then
        grant select on all tables in schema public to tollbook_ingest;
        grant insert on
            price_book, price_layer, price_book_layer, source_config, applied_at_start, source, chain,
            source_position, ingest_gap,
            batch, part, series, rate_set, posting, rejected_event, duplicate, event_seen,
            event_seen_count, event_seen_by_id, rollup_mark, rollup_quarter, rollup_day, rolled_day, adjustment,
            adjustment_bound,
            rejection_resolved, policy_set, policy_limit, account, account_change, balance_mark
            to tollbook_ingest;
        grant update on
            in_force, source, source_position, ingest_gap, event_seen_count, rollup_mark,
            rollup_quarter, rollup_day, account, balance_mark
            to tollbook_ingest;
        grant execute on function
            ensure_posting_month(timestamptz), ensure_event_seen_day(date),
            drop_event_seen_before(date), drop_event_seen_by_id_before(date, integer),
            delete_old_accounts(integer)
            to tollbook_ingest;
    end if;

    if exists (select from pg_roles where rolname = 'tollbook_enforcer') then
        grant select on
            _sqlx_migrations, in_force, price_book, source, chain, source_position, part, series,
            rate_set, posting, rollup_mark, rollup_quarter, rollup_day, rolled_day, policy_set,
            policy_limit, account, account_change, account_change_floor, replica_account
            to tollbook_enforcer;
        grant insert, update on replica_account to tollbook_enforcer;
        grant execute on function delete_old_accounts(integer) to tollbook_enforcer;
    end if;

    if exists (select from pg_roles where rolname = 'tollbook_reports') then
        grant select on all tables in schema public to tollbook_reports;
    end if;
end $$;
