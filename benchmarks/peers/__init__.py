"""Other people's software, adapted just enough to be measured beside ours on today's versions."""
