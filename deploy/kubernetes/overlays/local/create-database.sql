-- Run at the server's first start, after roles.sql.
create database max_two owner max_two_owner;
