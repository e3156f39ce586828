-- Creates the database. Run it with psql as a superuser, after roles.sql. It can be repeated.
select 'create database max_two owner max_two_owner'
where not exists (select from pg_database where datname = 'max_two')
\gexec
