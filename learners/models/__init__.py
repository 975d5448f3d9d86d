"""Networks: pixel encoder, recurrent state-space model, prediction heads, actor and critic."""
