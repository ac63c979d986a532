//! Calendars and time zones: grains of a report, cut at a zone's midnights.
