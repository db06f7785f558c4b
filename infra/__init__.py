"""What an AWS account needs, as a CloudFormation template, and the plan that explains it."""
