"""The monitor: reads the log and shows it in a web page. It never publishes."""
