"""How many items an orchestrator serves on time: its lag, memory and processor time; what status and plan take."""
